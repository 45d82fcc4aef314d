"""jwt-auth: consumers prove who they are with a signed token (RFC 7519).

Fields: ``header`` (``authorization``, with or without ``Bearer``), ``query`` (``jwt``) and ``cookie`` (``jwt``), where
the token is looked for, in this order; ``key_claim_name`` (``key``), the claim that names the consumer's key;
``claims_to_verify`` (of ``exp`` and ``nbf``), which must be there; ``store_in_ctx``, which sets the variable
``jwt_auth_payload``; ``hide_credentials``, ``realm`` (``jwt``), ``anonymous_consumer``. In a consumer or credential:
``key``; ``algorithm`` (``HS256``); ``secret`` for HS*, in base64 with ``base64_secret``, or ``public_key`` (PEM) for
others; ``lifetime_grace_period`` in seconds (0); ``exp`` is of no use here.

Answers 401 ``Missing JWT token in request``, ``JWT token invalid``, ``missing user key in JWT token``, ``Invalid user
key in JWT token`` or ``failed to verify jwt``, with ``WWW-Authenticate: Bearer realm="jwt"``. ``exp`` and ``nbf`` are
checked whenever they are there, also the one that ``claims_to_verify`` leaves out; an empty ``secret`` is refused, and
so are tokens with critical extensions (``crit``).
"""

import base64
import binascii
import logging
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from config_sync.errors import InvalidResource
from worker.consumers import AttachedConsumer
from worker.edited_request import edit
from worker.plugins.authentication import (
    AuthenticationConfig,
    Authenticator,
    FieldName,
    Realm,
    hide_argument,
    hide_cookie,
)
from worker.plugins.base import Scope
from worker.variables import accessor, assign
from worker.variables.values import text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jwt.algorithms import Algorithm

    from worker.exchange import Exchange

log = logging.getLogger("propylon.plugins")

INVALID = "JWT token invalid"
NOT_VERIFIED = "failed to verify jwt"
PAYLOAD = "jwt_auth_payload"  # the variable
CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
_URL_SAFE = bytes.maketrans(b"-_", b"+/")

HashName = Literal["HS256", "HS384", "HS512"]
RsaName = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
Name = HashName | RsaName | Literal["ES256", "ES384", "ES512", "EdDSA"]


class JwtAuthConfig(AuthenticationConfig, kw_only=True):
    """Where the token is, and what must be in it."""

    header: FieldName = "authorization"
    query: str = "jwt"
    cookie: str = "jwt"
    key_claim_name: Annotated[str, Meta(min_length=1)] = "key"
    store_in_ctx: bool = False
    claims_to_verify: tuple[Literal["exp", "nbf"], ...] = ()
    realm: Realm = "jwt"


class JwtAuthConsumer(msgspec.Struct):
    """By what a token is verified."""

    key: Annotated[str, Meta(min_length=1)]
    secret: str | None = None
    public_key: str | None = None
    algorithm: Name = "HS256"
    exp: Annotated[int, Meta(ge=1)] = 86400
    base64_secret: bool = False
    lifetime_grace_period: Annotated[int, Meta(ge=0)] = 0

    def verifying_key(self) -> str | bytes:
        """Return the secret or the public key; ValueError when the secret is not in base64 as it should be."""
        if not self.algorithm.startswith("HS"):
            return self.public_key or ""
        secret = (self.secret or "").encode()
        return base64.b64decode(secret, validate=True) if self.base64_secret else secret


class Token(NamedTuple):
    """A token taken apart; nothing in it has been verified."""

    head: "Mapping[str, Any]"
    payload: "Mapping[str, Any]"
    signed: bytes
    signature: bytes


class JwtAuth(Authenticator[JwtAuthConfig]):
    """Finds the consumer that a token names, and verifies the token with what that one has."""

    name = "jwt-auth"
    priority = 2510
    Config = JwtAuthConfig
    Consumer = JwtAuthConsumer
    credential = "key"
    scheme = "Bearer"

    def __init__(self, config: JwtAuthConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._header = config.header.encode()
        self._argument = accessor(f"arg_{config.query}")
        self._cookie = accessor(f"cookie_{config.cookie}")
        _algorithms()

    @classmethod
    def check_consumer(cls, config: JwtAuthConsumer) -> None:
        """Demand what the algorithm needs."""
        if config.algorithm.startswith("HS"):
            if not config.secret:
                raise InvalidResource("$.secret", f"is required for {config.algorithm}, and must not be empty")
            try:
                config.verifying_key()
            except ValueError as error:
                raise InvalidResource("$.secret", "is not base64, which base64_secret demands") from error
        elif not config.public_key:
            raise InvalidResource("$.public_key", f"is required for {config.algorithm}")

    def authenticate(self, exchange: "Exchange") -> AttachedConsumer | str:
        """Look the key in the token up, and verify."""
        text = self._found(exchange)[0]
        if text is None:
            return "Missing JWT token in request"
        token = parsed(text)
        if token is None:
            return INVALID
        key = token.payload.get(self.config.key_claim_name)
        if key is None:
            return "missing user key in JWT token"
        found = self.consumers.find(self.name, key) if isinstance(key, str) else None
        if found is None:
            return "Invalid user key in JWT token"
        auth: JwtAuthConsumer = found.auth
        if not is_signed(token, auth):
            return NOT_VERIFIED
        if not are_claims_valid(token.payload, self.config.claims_to_verify, auth.lifetime_grace_period):
            return NOT_VERIFIED
        if self.config.store_in_ctx:
            assign(exchange, PAYLOAD, dict(token.payload))
        return found

    def _found(self, exchange: "Exchange") -> tuple[str | None, str]:
        """Return the token, and where it is."""
        value = exchange.request.header(self._header)  # type: ignore[union-attr]  # there is one
        if value is not None:
            return text_of(value[7:].lstrip(b" ") if value[:7] in (b"Bearer ", b"bearer ") else value), "header"
        argument = self._argument(exchange)
        if isinstance(argument, str):
            return argument, "query"
        cookie = self._cookie(exchange)
        return (cookie, "cookie") if isinstance(cookie, str) else (None, "")

    def hide(self, exchange: "Exchange") -> None:
        """Take the token away."""
        place = self._found(exchange)[1]
        if place == "header":
            edit(exchange).remove_field(self._header)
        elif place == "query":
            hide_argument(exchange, self.config.query)
        else:
            hide_cookie(exchange, self.config.cookie)


def parsed(text: str) -> Token | None:
    """Take a token apart; None when it is none."""
    parts = text.encode("utf-8", "surrogateescape").split(b".")
    if len(parts) != 3:
        return None
    try:
        head, payload, signature = map(_decoded, parts)
        values = msgspec.json.decode(head), msgspec.json.decode(payload)
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not all(isinstance(value, dict) for value in values):
        return None
    return Token(*values, parts[0] + b"." + parts[1], signature)


def _decoded(part: bytes) -> bytes:
    if b"+" in part or b"/" in part or b"=" in part:
        raise binascii.Error("not base64url")
    padded = part.translate(_URL_SAFE) + b"=" * (-len(part) % 4)
    return binascii.a2b_base64(padded, strict_mode=True) if padded else b""


def is_signed(token: Token, auth: JwtAuthConsumer) -> bool:
    """Tell whether a token was signed with the algorithm and the key of a consumer; no other algorithm counts."""
    if token.head.get("alg") != auth.algorithm or "crit" in token.head:
        return False
    key = _prepared(auth.algorithm, auth.verifying_key())
    if key is None:
        return False
    return bool(_algorithms()[auth.algorithm].verify(token.signed, key, token.signature))


@lru_cache(maxsize=4096)
def _prepared(name: str, key: str | bytes) -> Any:
    """Return a key in the form its algorithm uses; None when it is of no use to it."""
    if isinstance(key, bytes):
        return key
    try:
        if "-----BEGIN CERTIFICATE-----" in key:
            from cryptography.x509 import load_pem_x509_certificate

            return _checked(name, load_pem_x509_certificate(key.encode()).public_key())
        return _checked(name, _algorithms()[name].prepare_key(key))
    except Exception as error:  # the libraries raise what they like for keys that cannot be read
        log.error("jwt-auth: a consumer's public_key is of no use for %s: %s", name, error)
        return None


def _checked(name: str, key: Any) -> Any:
    """Return a public key; ValueError when it is a private one, or of another kind than its algorithm wants."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if name == "EdDSA":
        is_right = isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)
    elif name in CURVES:
        is_right = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == CURVES[name]
    else:
        is_right = isinstance(key, rsa.RSAPublicKey)
    if not is_right:
        raise ValueError("it is no public key of the right kind")
    return key


@lru_cache(maxsize=1)
def _algorithms() -> "dict[str, Algorithm]":
    # Imported when a route has this plugin: with what it needs it takes 10 MB and 50 ms, which others do not.
    from jwt.algorithms import get_default_algorithms

    return get_default_algorithms()


def are_claims_valid(payload: "Mapping[str, Any]", required: "tuple[str, ...]", grace: int) -> bool:
    """Tell whether a token is of now, give or take some seconds."""
    now = time.time()
    for claim in ("exp", "nbf"):
        value = payload.get(claim)
        if claim not in payload:
            if claim in required:
                return False
        elif (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or ((value <= now - grace) if claim == "exp" else (value >= now + grace))
        ):
            return False
    return True
