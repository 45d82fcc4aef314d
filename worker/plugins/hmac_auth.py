"""hmac-auth: consumers prove who they are by signing their requests with a shared secret.

Fields: ``allowed_algorithms`` (of ``hmac-sha1``, ``hmac-sha256``, ``hmac-sha512``; all), ``clock_skew`` in seconds
(300), ``signed_headers`` (``["date"]``), which must be among the signed ones, ``validate_request_body``, with
``max_req_body_size`` (64 MiB), ``hide_credentials``, ``realm`` (``hmac``), ``anonymous_consumer``. In a consumer or
credential: ``key_id`` and ``secret_key`` (1 to 256 characters).

What is signed: the key's id; for each name in ``headers`` of the field ``Authorization: Signature
keyId="…",algorithm="…", headers="@request-target date",signature="…"`` a line, ``METHOD path?query`` with the
normalised path, or ``name: value``, none for a field that is absent; each line with a newline. ``Date`` must not differ
from the clock by more than the skew. With ``validate_request_body``, ``Digest: SHA-256=…`` must be that of the body.

Answers 401 ``client request can't be validated: missing Authorization header``, ``client request can't be validated:
Authorization header does not start with 'Signature'`` or, for any other reason, which the log has, ``client request
can't be validated``, with ``WWW-Authenticate: hmac realm="hmac"``; 413 for a body above the limit. A parameter that is
there twice is refused.
"""

import base64
import binascii
import hashlib
import hmac
import logging
import re
import time
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from worker.consumers import AttachedConsumer
from worker.edited_request import edit
from worker.plugins.answer import Answer
from worker.plugins.authentication import AuthenticationConfig, Authenticator, Realm
from worker.plugins.base import Scope
from worker.plugins.request_body import whole_body
from worker.variables import accessor
from worker.variables.values import text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

log = logging.getLogger("propylon.plugins")

REFUSED = "client request can't be validated"
LARGE = 262_144  # bytes of a body that are digested in a thread: about 0.2 ms
_PARAMETER = re.compile(r'\s*(\w+)="([^"]*)"\s*(?:,|\Z)')

AlgorithmName = Literal["hmac-sha1", "hmac-sha256", "hmac-sha512"]
_DIGESTS: Mapping[str, str] = {"hmac-sha1": "sha1", "hmac-sha256": "sha256", "hmac-sha512": "sha512"}

_request_uri = accessor("request_uri")


class HmacAuthConfig(AuthenticationConfig, kw_only=True):
    """What must be signed, and how."""

    allowed_algorithms: Annotated[tuple[AlgorithmName, ...], Meta(min_length=1)] = (
        "hmac-sha1",
        "hmac-sha256",
        "hmac-sha512",
    )
    clock_skew: Annotated[int, Meta(ge=1)] = 300
    signed_headers: tuple[str, ...] = ("date",)
    validate_request_body: bool = False
    max_req_body_size: Annotated[int, Meta(ge=1)] = 64 * 1024 * 1024
    realm: Realm = "hmac"


class HmacAuthConsumer(msgspec.Struct):
    """What a consumer signs with."""

    key_id: Annotated[str, Meta(min_length=1, max_length=256)]
    secret_key: Annotated[str, Meta(min_length=1, max_length=256)]


class HmacAuth(Authenticator[HmacAuthConfig]):
    """Finds the consumer of a key's id, and signs the request once more."""

    name = "hmac-auth"
    priority = 2530
    Config = HmacAuthConfig
    Consumer = HmacAuthConsumer
    credential = "key_id"
    scheme = "hmac"

    def __init__(self, config: HmacAuthConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._required = frozenset(name.lower() for name in config.signed_headers)
        if config.validate_request_body:
            self.prepare = self._digest_body
            self.rewrite = self._rewrite_with_body  # type: ignore[assignment,method-assign]  # async only where it may have to wait

    async def _rewrite_with_body(self, exchange: "Exchange") -> Answer | None:
        await self._digest_body(exchange)
        return super().rewrite(exchange)

    async def _digest_body(self, exchange: "Exchange") -> None:
        """Digest a large body in a thread, when the rest of the request is right."""
        if isinstance(self._signer(exchange)[0], str):
            return
        body = whole_body(exchange, self.config.max_req_body_size)
        if body is not None and len(body) > LARGE:
            run, loop = exchange.run, self.scope.services.loop
            assert run is not None  # noqa: S101 - plugins run in one
            run.keep(self, await loop.run_in_executor(None, lambda: hashlib.sha256(body).digest()))

    def authenticate(self, exchange: "Exchange") -> AttachedConsumer | Answer | str:
        """Look the key's id up, and compare signatures."""
        found, told = self._signer(exchange)
        if not isinstance(found, str) and self.config.validate_request_body:
            body = whole_body(exchange, self.config.max_req_body_size)
            if body is None:
                return Answer(413)
            if not self._is_digest_right(exchange, body):
                found, told = "the Digest is not that of the body", REFUSED
        if isinstance(found, str):
            log.info("hmac-auth: %s, client: %s", found, exchange.remote_address)
            return told
        return found

    def _signer(self, exchange: "Exchange") -> tuple[AttachedConsumer | str, str]:
        """Return who has signed, or what is wrong; and what the client is told of that."""
        value = exchange.request.header(b"authorization")  # type: ignore[union-attr]  # there is one
        if value is None:
            return "no Authorization header", f"{REFUSED}: missing Authorization header"
        if not value.startswith(b"Signature"):
            return "another scheme", f"{REFUSED}: Authorization header does not start with 'Signature'"
        parameters = parsed(text_of(value.removeprefix(b"Signature")))
        return self._verified(exchange, parameters) if parameters else "malformed Authorization header", REFUSED

    def _verified(self, exchange: "Exchange", parameters: Mapping[str, str]) -> AttachedConsumer | str:
        """Return whom the signature is from, or what is wrong with it."""
        algorithm = parameters.get("algorithm", "")
        if algorithm not in self.config.allowed_algorithms:
            return "the algorithm is not allowed"
        names = parameters.get("headers", "").split()
        if not self._required <= {name.lower() for name in names}:
            return "a header that must be signed is not"
        if not self._is_of_now(exchange):
            return "the Date is missing, invalid, or too far from the clock"
        key_id = parameters.get("keyId", "")
        found = self.consumers.find(self.name, key_id)
        if found is None:
            return "nobody has this keyId"
        auth: HmacAuthConsumer = found.auth
        expected = hmac.digest(auth.secret_key.encode(), signed_text(exchange, key_id, names), _DIGESTS[algorithm])
        try:
            given = binascii.a2b_base64(parameters.get("signature", "").encode("utf-8", "surrogateescape"))
        except binascii.Error:
            return "the signature is not base64"
        return found if hmac.compare_digest(given, expected) else "the signature is wrong"

    def _is_of_now(self, exchange: "Exchange") -> bool:
        value = exchange.request.header(b"date")  # type: ignore[union-attr]  # there is one
        try:
            fields = parsedate_tz(value.decode()) if value is not None else None
            return fields is not None and abs(time.time() - mktime_tz(fields)) <= self.config.clock_skew
        except (ValueError, OverflowError, IndexError, TypeError):
            return False

    def _is_digest_right(self, exchange: "Exchange", body: bytes) -> bool:
        kept = exchange.run.kept(self) if exchange.run is not None else None
        expected = b"SHA-256=" + base64.b64encode(kept or hashlib.sha256(body).digest())
        given = exchange.request.header(b"digest")  # type: ignore[union-attr]  # there is one
        return given is not None and hmac.compare_digest(given, expected)

    def hide(self, exchange: "Exchange") -> None:
        """Take the field away."""
        edit(exchange).remove_field(b"Authorization")


def parsed(text: str) -> dict[str, str] | None:
    """Read the parameters of a signature; None when they are malformed, or one is there twice."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        parameter = _PARAMETER.match(text, at)
        if parameter is None or parameter[1] in found:
            return None
        found[parameter[1]] = parameter[2]
        at = parameter.end()
    return found


def signed_text(exchange: "Exchange", key_id: str, names: list[str]) -> bytes:
    """Return what a client has signed (plugins.md section 3)."""
    request = exchange.request
    assert request is not None  # noqa: S101 - plugins run for one
    # As many names as fit into a head: a search for each of them would keep the loop.
    fields: dict[bytes, list[bytes]] = {}
    for line in request.block.split(b"\r\n"):
        field, _, value = line.partition(b":")
        fields.setdefault(field.lower(), []).append(value.strip(b" \t"))
    lines = [key_id.encode("utf-8", "surrogateescape")]
    for name in names:
        if name == "@request-target":
            uri = _request_uri(exchange)
            assert isinstance(uri, str)  # noqa: S101 - there is a request
            lines.append(request.method + b" " + uri.encode("utf-8", "surrogateescape"))
            continue
        written = name.encode("utf-8", "surrogateescape")
        values = fields.get(written.lower())
        if values is not None:
            lines.append(written + b": " + b", ".join(values))
    return b"\n".join(lines) + b"\n"
