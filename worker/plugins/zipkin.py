"""Tells a Zipkin server of requests, as spans (extra ``http``).

    endpoint       URI of the server, with its path, as http://127.0.0.1:9411/api/v2/spans
    sample_ratio   of the requests that come without a decision
    service_name
    server_addr    the gateway's IPv4 address; without: the one that the client is connected to
    span_version   1 or 2; both have the same spans

There are three: ``apisix.request``, in it ``apisix.proxy``, until the head of the answer, and ``apisix.response_span``.
B3 fields, single (``b3``) or not, are taken from the request; a ``b3`` that is none gets 400. Upstream go
``X-B3-TraceId``, ``-SpanId``, ``-ParentSpanId`` and ``-Sampled``.
"""

import os
import re
import time
from collections.abc import Sequence
from random import random
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from worker.edited_request import edit
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.batch import BatchConfig, BatchProcessor
from worker.plugins.http_client import HttpClient
from worker.plugins.http_logger import check_uri, post
from worker.plugins.log_entry import encoded
from worker.variables.values import text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead

WITHIN = 5.0  # seconds for a batch
_ID = re.compile(rb"[0-9a-f]{16}|[0-9a-f]{32}")
_B3 = re.compile(rb"(?:([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-([01d])(?:-([0-9a-f]{16}))?)?|([01d]))")
_IPV4 = r"^(\d{1,3}\.){3}\d{1,3}$"
_YES = frozenset((b"1", b"d", b"true", b"True"))
_FIELDS = (b"X-B3-TraceId", b"X-B3-SpanId", b"X-B3-ParentSpanId", b"X-B3-Sampled")


class ZipkinConfig(msgspec.Struct, kw_only=True):
    """Whom to tell, and of how much."""

    endpoint: str
    sample_ratio: Annotated[float, msgspec.Meta(ge=0.00001, le=1)]
    service_name: str = "APISIX"
    server_addr: Annotated[str, msgspec.Meta(pattern=_IPV4)] | None = None
    span_version: Literal[1, 2] = 2


class Invalid(Exception):
    """B3 fields that are none."""


class Incoming(msgspec.Struct):
    """What B3 fields say; ``is_sampled`` None: that has not been decided."""

    trace_id: bytes = b""
    span_id: bytes = b""
    parent_id: bytes = b""
    is_sampled: bool | None = None


class Trace(msgspec.Struct):
    """The spans of one request; times in microseconds since 1970."""

    trace_id: bytes
    request_id: bytes
    parent_id: bytes
    proxy_id: bytes
    began: int
    accessed: int = 0  # when the request phases were over
    answered: int = 0  # when the head of the answer was known


class Zipkin(Plugin[ZipkinConfig]):
    """Begins spans, and sends them."""

    name = "zipkin"
    priority = 12011
    Config = ZipkinConfig
    only_observes = True

    def __init__(self, config: ZipkinConfig, scope: Scope) -> None:
        HttpClient.require("zipkin")
        super().__init__(config, scope)
        server = config.endpoint.partition("://")[2].partition("/")[0]
        self._batches = BatchProcessor(scope.services, BatchConfig(), self._send, self.name, labels=("", server))

    @classmethod
    def check(cls, config: Any) -> None:
        """Check the URI."""
        check_uri(config.endpoint, "$.endpoint")

    def rewrite(self, exchange: "Exchange") -> Answer | None:
        """Begin the span of the request."""
        request, run = exchange.request, exchange.run
        assert request is not None and run is not None  # noqa: S101, PT018 - hooks run in one
        try:
            incoming = read_b3(request.header)
        except Invalid:
            return Answer(400)
        is_sampled = incoming.is_sampled
        if is_sampled is None:
            is_sampled = random() < self.config.sample_ratio  # noqa: S311 - no secret
        trace_id = incoming.trace_id or _new_id()
        # The span of whoever sends the request is the parent of ours.
        trace = Trace(trace_id, _new_id() if incoming.span_id else trace_id[-16:], incoming.span_id, _new_id(), _now())
        edited = edit(exchange)
        edited.remove_field(b"b3")
        values = trace_id, trace.proxy_id, trace.request_id, b"1" if is_sampled else b"0"
        for name, value in zip(_FIELDS, values, strict=True):
            edited.set_field(name, value)
        if is_sampled:
            run.keep(self, trace)
        return None

    def access(self, exchange: "Exchange") -> None:
        """Begin the span of the upstream."""
        trace = self._trace(exchange)
        if trace is not None:
            trace.accessed = _now()

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Begin the span of the answer."""
        trace = self._trace(exchange)
        if trace is not None:
            trace.answered = _now()

    def log(self, exchange: "Exchange") -> None:
        """End all spans."""
        trace = self._trace(exchange)
        if trace is not None:
            for span in self._spans(exchange, trace):
                self._batches.add(encoded(span))

    def close(self) -> None:
        """Send what waits."""
        self._batches.close()

    async def _send(self, batch: Sequence[bytes]) -> None:
        fields = [(b"Content-Type", b"application/json")]
        await post(self.scope, self.config.endpoint, fields, b"[%b]" % b",".join(batch), WITHIN, False)

    def _trace(self, exchange: "Exchange") -> Trace | None:
        trace: Trace | None = exchange.run.kept(self) if exchange.run is not None else None
        return trace

    def _spans(self, exchange: "Exchange", trace: Trace) -> list[dict[str, Any]]:
        ended, peer = _now(), exchange.peer
        local = {
            "serviceName": self.config.service_name,
            "ipv4": self.config.server_addr or exchange.downstream.local_address,
            "port": exchange.downstream.local_port,
        }

        def span(id_: bytes, parent: bytes, name: str, began: int, until: int) -> dict[str, Any]:
            return {
                "traceId": trace.trace_id.decode(),
                "id": id_.decode(),
                **({"parentId": parent.decode()} if parent else {}),
                "name": name,
                "timestamp": began,
                "duration": max(1, until - began),
                "localEndpoint": local,
            }

        request = span(trace.request_id, trace.parent_id, "apisix.request", trace.began, ended)
        request |= {"kind": "SERVER", "remoteEndpoint": _endpoint(exchange.remote_address, exchange.remote_port)}
        request["tags"] = self._tags(exchange)
        spans = [request]
        answered = trace.answered or ended
        if peer is not None:
            proxy = span(trace.proxy_id, trace.request_id, "apisix.proxy", trace.accessed or trace.began, answered)
            spans.append(proxy | {"kind": "CLIENT", "remoteEndpoint": _endpoint(peer.host, peer.port)})
        if trace.answered:
            spans.append(span(_new_id(), trace.request_id, "apisix.response_span", answered, ended))
        return spans

    def _tags(self, exchange: "Exchange") -> dict[str, str]:
        request, route, run = exchange.request, exchange.route, exchange.run
        assert request is not None  # noqa: S101 - hooks run in one
        tags = {
            "component": "apisix",
            "http.method": text_of(request.method),
            "http.path": text_of(request.path),
            "http.host": text_of(request.host_name),
            "http.status_code": str(exchange.status),
        }
        if route is not None:
            tags["http.route"] = text_of(request.pattern.text) if request.pattern is not None else ""
            tags["apisix.route_id"] = route.id
            if route.service is not None:
                tags["apisix.service_id"] = route.service.id
        if run is not None and run.consumer is not None:
            tags["apisix.consumer_name"] = run.consumer.username
        if exchange.status >= 500:
            tags["error"] = str(exchange.status)
        return tags


def read_b3(header: Any) -> Incoming:
    """Read B3 fields by a function from names to values; the single one wins.

    Raises:
        Invalid: they are none.
    """
    single = header(b"b3")
    if single is not None:
        found = _B3.fullmatch(single.strip().lower())
        if found is None:
            raise Invalid
        decision = found[3] or found[5]
        return Incoming(
            found[1] or b"", found[2] or b"", found[4] or b"", None if decision is None else decision != b"0"
        )
    trace_id, span_id, parent_id, sampled = (header(name) for name in _FIELDS)
    for id_ in (trace_id, span_id, parent_id):
        if id_ is not None and _ID.fullmatch(id_.lower()) is None:
            raise Invalid
    decided = None if sampled is None else sampled in _YES
    if header(b"X-B3-Flags") == b"1":
        decided = True
    if trace_id is None or span_id is None:
        return Incoming(is_sampled=decided)
    return Incoming(trace_id.lower(), span_id.lower(), parent_id or b"", decided)


def _endpoint(host: str, port: int) -> dict[str, Any]:
    kind = "ipv6" if ":" in host else "ipv4" if host.replace(".", "").isdigit() else "serviceName"
    return {kind: host, "port": port}


def _now() -> int:
    return time.time_ns() // 1000


def _new_id() -> bytes:
    return os.urandom(8).hex().encode()
