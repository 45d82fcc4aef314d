"""Sends a copy of requests to another server, whose answers nobody sees; needs the extra ``http``.

    host                ``http://`` or ``https://`` with a name or address, and a port if it is not the usual one
    path                of the copy; without it that of the request
    path_concat_mode    ``replace`` (the default), or ``prefix``: ``path`` stands before that of the request
    sample_ratio        the share of requests that are copied, 0.00001 to 1 (1)

A copy is what goes to the upstream, with its body, of up to 16 MiB, which is received first: a request with a larger
one is not copied. It is sent once, when a node has been chosen, and nothing waits for it. It may take as long as the
longest of ``connect``, ``read`` and ``send`` in the settings' ``plugin_attr.proxy-mirror.timeout`` (60 s). Beyond 1,000
copies, or 64 MiB of their bodies, under way in a worker there are no more. ``grpc://`` and ``grpcs://`` are taken, but
nothing is copied to them.
"""

import logging
from random import random
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from worker.edited_request import sent_host, sent_method, sent_target
from worker.fields import FRAMING, FieldLines
from worker.plugins.base import Plugin, Scope
from worker.plugins.http_client import HttpClient, HttpFailed
from worker.plugins.request_body import whole_body

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.messages import Request

log = logging.getLogger("propylon.plugins")

LARGEST_BODY = 16 * 1024 * 1024
LARGEST_ANSWER = 1024 * 1024
MOST_COPIES = 1000
MOST_BYTES = 64 * 1024 * 1024  # of bodies of copies under way
TIMEOUT = 60.0
_NOT_SENT = FRAMING | {b"host"}


class ProxyMirrorConfig(msgspec.Struct):
    """Where copies go, and which."""

    host: Annotated[str, msgspec.Meta(pattern=r"^(http|grpc)s?://([0-9a-zA-Z.\-]+|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?\Z")]
    path: Annotated[str, msgspec.Meta(pattern=r"^/[^?&#\s\x00-\x1f\x7f]*\Z")] | None = None
    path_concat_mode: Literal["replace", "prefix"] = "replace"
    sample_ratio: Annotated[float, msgspec.Meta(ge=0.00001, le=1)] = 1.0


class ProxyMirror(Plugin[ProxyMirrorConfig]):
    """Copies requests."""

    name = "proxy-mirror"
    priority = 1010
    Config = ProxyMirrorConfig

    def __init__(self, config: ProxyMirrorConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        HttpClient.require(self.name)
        self._is_possible = config.host.startswith("http")
        if not self._is_possible:
            log.warning("%s: proxy-mirror: nothing is copied to %s, which speaks gRPC", scope.key, config.host)
        self._within = time_limit(scope.services.attribute(self.name).get("timeout"))
        self._copies = 0
        self._bytes = 0

    def rewrite(self, exchange: "Exchange") -> None:
        """Decide whether the request is copied, and see to it that its body is at hand."""
        request, run = exchange.request, exchange.run
        assert request is not None and run is not None  # noqa: S101, PT018 - hooks run in one
        if not self._is_possible or request.upgrade:
            return
        wants = run.kept(self)
        if wants is None:  # the dice are not cast again when the body has been received
            wants = self.config.sample_ratio == 1 or random() < self.config.sample_ratio  # noqa: S311 - no secret
            run.keep(self, wants)
        if wants and whole_body(exchange, LARGEST_BODY) is None:
            log.warning("%s: proxy-mirror: a request is not copied, since its body is too large", self.scope.key)
            run.keep(self, False)

    def before_proxy(self, exchange: "Exchange") -> None:
        """Send the copy, before the first try."""
        request, run = exchange.request, exchange.run
        assert request is not None and run is not None  # noqa: S101, PT018 - hooks run in one
        if not run.kept(self):
            return
        run.keep(self, False)
        body = whole_body(exchange, LARGEST_BODY)
        if self._copies >= MOST_COPIES or self._bytes + len(body or b"") > MOST_BYTES:
            log.warning("%s: proxy-mirror: %d copies are under way; there is no other", self.scope.key, self._copies)
            return
        self._copies += 1
        self._bytes += len(body or b"")
        self.scope.services.spawn(self._send(request, body or None))

    async def _send(self, request: "Request", body: bytes | None) -> None:
        try:
            await self.scope.services.http.request(
                sent_method(request).decode("latin-1"),
                self.config.host + self._target(request).decode("latin-1"),
                fields=fields_of(request),
                body=body,
                within=self._within,
                verify=False,
                largest=LARGEST_ANSWER,
            )
        except HttpFailed as error:
            log.info("%s: proxy-mirror: %s", self.scope.key, error)
        finally:
            self._copies -= 1
            self._bytes -= len(body or b"")

    def _target(self, request: "Request") -> bytes:
        target, own = sent_target(request), self.config.path
        if own is None:
            return target
        if self.config.path_concat_mode == "prefix":
            return own.encode() + target
        _, mark, query = target.partition(b"?")
        return own.encode() + mark + query


def fields_of(request: "Request") -> list[tuple[bytes, bytes]]:
    """Return the fields that go to the upstream, but for those that frame the message."""
    pairs = FieldLines(request.upstream_fields[:-2]).items()
    kept = [(name, value) for name, value in pairs if name.lower() not in _NOT_SENT]
    host = sent_host(request)
    return [(b"Host", host), *kept] if host else kept


def time_limit(attribute: object) -> float:
    """Return the seconds that a copy may take, from ``plugin_attr.proxy-mirror.timeout``."""
    parts = attribute if isinstance(attribute, dict) else {}
    seconds = [_seconds(parts.get(name)) for name in ("connect", "read", "send")]
    return max(seconds)


def _seconds(value: object) -> float:
    """Read ``60s``, ``500ms`` or a number of seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(value)
    text = str(value or "")
    number, factor = (text.removesuffix("ms"), 0.001) if text.endswith("ms") else (text.removesuffix("s"), 1.0)
    try:
        return float(number) * factor or TIMEOUT
    except ValueError:
        return TIMEOUT
