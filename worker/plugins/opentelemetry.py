"""Tells an OpenTelemetry collector of requests, as spans, by OTLP over HTTP (extra ``http``).

    sampler    name: always_off, always_on, trace_id_ratio (of options.fraction), or parent_base (as whoever sent the
               request has decided, else as options.root says)
    additional_attributes                  names of variables
    additional_header_prefix_attributes    names of fields; with a star at the end all that begin like this

Without metadata nothing happens. They are:

    collector              address, request_timeout (seconds), request_headers
    resource               attributes of the gateway; service.name is APISIX unless it says otherwise
    batch_span_processor   max_queue_size, max_export_batch_size, batch_timeout and inactive_timeout (seconds)
    trace_id_source        random, or x-request-id: the request's field, where it is a UUID or 32 hexadecimal digits
    set_ngx_var            whether there are the variables opentelemetry_context_traceparent, opentelemetry_trace_id
                           and opentelemetry_span_id

``traceparent`` is taken from the request, and sent upstream with a span of ours (W3C Trace Context).
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from worker.edited_request import edit
from worker.plugins.base import Plugin, Scope
from worker.plugins.batch import AtLeastOne, BatchConfig, BatchProcessor
from worker.plugins.http_client import HttpClient
from worker.plugins.http_logger import post
from worker.plugins.log_entry import HOSTNAME, encoded
from worker.variables import accessor
from worker.variables.memo import assign
from worker.variables.values import shown, text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

SERVER = 2  # the kind of our spans
ERROR = 2  # the code of a status
SAMPLED = 1
PATH = "/v1/traces"
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_HEX = re.compile(rb"[0-9a-f]{32}")
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class RootOptions(msgspec.Struct):
    """Of the sampler of requests that come without a decision."""

    fraction: Fraction = 0


class RootSampler(msgspec.Struct):
    """The sampler of requests that come without a decision."""

    name: Literal["always_on", "always_off", "trace_id_ratio"] = "always_off"
    options: RootOptions = msgspec.field(default_factory=RootOptions)


class SamplerOptions(msgspec.Struct):
    """Of trace_id_ratio, and of parent_base."""

    fraction: Fraction = 0
    root: RootSampler = msgspec.field(default_factory=RootSampler)


class SamplerConfig(msgspec.Struct):
    """Which requests are told of."""

    name: Literal["always_on", "always_off", "trace_id_ratio", "parent_base"] = "always_off"
    options: SamplerOptions = msgspec.field(default_factory=SamplerOptions)


class OpenTelemetryConfig(msgspec.Struct):
    """What is told."""

    sampler: SamplerConfig = msgspec.field(default_factory=SamplerConfig)
    additional_attributes: list[str] = []
    additional_header_prefix_attributes: list[str] = []


class Collector(msgspec.Struct):
    """Whom to tell."""

    address: str = "127.0.0.1:4318"
    request_timeout: Seconds = 3
    request_headers: dict[str, str] = {}


class SpanBatches(msgspec.Struct):
    """When spans are sent."""

    drop_on_queue_full: bool = True
    max_queue_size: AtLeastOne = 2048
    batch_timeout: Seconds = 5
    inactive_timeout: Seconds = 2
    max_export_batch_size: AtLeastOne = 256


class OpenTelemetryMetadata(msgspec.Struct):
    """What holds for all uses."""

    trace_id_source: Literal["random", "x-request-id"] = "random"
    resource: dict[str, str | bool | int | float] = {}
    collector: Collector = msgspec.field(default_factory=Collector)
    batch_span_processor: SpanBatches = msgspec.field(default_factory=SpanBatches)
    set_ngx_var: bool = False


class Parent(NamedTuple):
    """What the request says of the span it comes from."""

    trace_id: bytes
    span_id: bytes
    is_sampled: bool


class Span(NamedTuple):
    """A span that has begun; ids are hexadecimal, times nanoseconds since 1970."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    began: int


class OpenTelemetry(Plugin[OpenTelemetryConfig]):
    """Begins a span, and sends it."""

    name = "opentelemetry"
    priority = 12009
    Config = OpenTelemetryConfig
    Metadata = OpenTelemetryMetadata
    only_observes = True

    def __init__(self, config: OpenTelemetryConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        metadata: OpenTelemetryMetadata = scope.metadata
        if not scope.has_metadata:
            self.unused = frozenset(("rewrite", "log"))
            return
        HttpClient.require("opentelemetry")
        self._samples = sampler(config.sampler)
        self._takes_request_id = metadata.trace_id_source == "x-request-id"
        self._sets_variables = metadata.set_ngx_var
        self._variables = [(name, accessor(name)) for name in config.additional_attributes]
        self._fields = [name.lower() for name in config.additional_header_prefix_attributes]
        resource = {"service.name": "APISIX", "hostname": HOSTNAME, **metadata.resource}
        self._before = (
            b'{"resourceSpans":[{"resource":{"attributes":%b},"scopeSpans":[{"scope":{"name":"propylon"},"spans":['
            % (msgspec.json.encode([attribute(name, value) for name, value in resource.items()]))
        )
        collector, batches = metadata.collector, metadata.batch_span_processor
        self._url = collector.address.rstrip("/") + PATH
        if "://" not in collector.address:
            self._url = f"http://{self._url}"
        self._headers = [(b"Content-Type", b"application/json")]
        self._headers += [(name.encode(), value.encode()) for name, value in collector.request_headers.items()]
        limits = BatchConfig(
            batch_max_size=batches.max_export_batch_size,
            inactive_timeout=batches.inactive_timeout,
            buffer_duration=batches.batch_timeout,
        )
        self._within = collector.request_timeout
        self._batches = BatchProcessor(
            scope.services, limits, self._send, self.name, batches.max_queue_size, ("", collector.address)
        )

    def rewrite(self, exchange: "Exchange") -> None:
        """Begin a span, and tell the upstream of it."""
        request, run = exchange.request, exchange.run
        assert request is not None and run is not None  # noqa: S101, PT018 - hooks run in one
        parent = read_parent(request.header(b"traceparent"))
        if parent is not None:
            trace_id = parent.trace_id
        else:
            trace_id = self._request_id(request.header(b"x-request-id")) or os.urandom(16).hex().encode()
        is_sampled = self._samples(trace_id, parent)
        span_id = os.urandom(8).hex().encode()
        traceparent = b"00-%b-%b-%02x" % (trace_id, span_id, is_sampled)
        edit(exchange).set_field(b"traceparent", traceparent)
        if self._sets_variables:
            assign(exchange, "opentelemetry_context_traceparent", traceparent.decode())
            assign(exchange, "opentelemetry_trace_id", trace_id.decode())
            assign(exchange, "opentelemetry_span_id", span_id.decode())
        if is_sampled:
            run.keep(self, Span(trace_id, span_id, parent.span_id if parent is not None else b"", time.time_ns()))

    def log(self, exchange: "Exchange") -> None:
        """End the span."""
        span: Span | None = exchange.run.kept(self) if exchange.run is not None else None
        if span is not None:
            self._batches.add(encoded(self._told(exchange, span)))

    def close(self) -> None:
        """Send what waits."""
        if not self.unused:
            self._batches.close()

    def _request_id(self, value: bytes | None) -> bytes | None:
        if not self._takes_request_id or value is None:
            return None
        plain = value.replace(b"-", b"").lower()
        return plain if _HEX.fullmatch(plain) and plain.strip(b"0") else None

    async def _send(self, batch: Sequence[bytes]) -> None:
        body = self._before + b",".join(batch) + b"]}]}]}"
        await post(self.scope, self._url, self._headers, body, self._within, True)

    def _told(self, exchange: "Exchange", span: Span) -> dict[str, Any]:
        request, route = exchange.request, exchange.route
        assert request is not None  # noqa: S101 - hooks run in one
        method = text_of(request.method)
        pattern = text_of(request.pattern.text) if route is not None and request.pattern is not None else ""
        told = {
            "traceId": span.trace_id.decode(),
            "spanId": span.span_id.decode(),
            "name": f"{method} {pattern}".strip(),
            "kind": SERVER,
            "startTimeUnixNano": str(span.began),
            "endTimeUnixNano": str(time.time_ns()),
            "attributes": [attribute(name, value) for name, value in self._attributes(exchange, method, pattern)],
            "status": {"code": ERROR} if exchange.status >= 500 else {},
        }
        if span.parent_id:
            told["parentSpanId"] = span.parent_id.decode()
        return told

    def _attributes(self, exchange: "Exchange", method: str, pattern: str) -> Iterator[tuple[str, Any]]:
        request, route, peer = exchange.request, exchange.route, exchange.peer
        assert request is not None  # noqa: S101 - hooks run in one
        yield "http.request.method", method
        yield "url.scheme", exchange.downstream.scheme
        yield "url.path", text_of(request.path)
        query = request.target.partition(b"?")[2]
        if query:
            yield "url.query", text_of(query)
        yield "server.address", text_of(request.host_name)
        yield "client.address", exchange.remote_address
        agent = request.header(b"user-agent")
        if agent is not None:
            yield "user_agent.original", text_of(agent)
        yield "http.response.status_code", exchange.status
        if peer is not None:
            yield "apisix.upstream_addr", peer.address
        if route is not None:
            yield "http.route", pattern
            yield from self._named("route", "routes", route.id)
            if route.service is not None:
                yield from self._named("service", "services", route.service.id)
        for name, get in self._variables:
            value = get(exchange)
            if value is not None:
                yield name, shown(value)
        if self._fields:
            yield from self._wanted_fields(request.block)

    def _named(self, kind: str, directory: str, id_: str) -> Iterator[tuple[str, str]]:
        yield f"apisix.{kind}_id", id_
        yield f"apisix.{kind}_name", self.scope.services.metrics.existence.name(directory, id_)

    def _wanted_fields(self, block: bytes) -> Iterator[tuple[str, str]]:
        for line in text_of(block).split("\r\n"):
            name, colon, value = line.partition(":")
            name = name.lower()
            if colon and any(
                name.startswith(want[:-1]) if want.endswith("*") else name == want for want in self._fields
            ):
                yield name, value.strip(" \t")


def sampler(config: SamplerConfig | RootSampler) -> Callable[[bytes, Parent | None], bool]:
    """Compile what decides whether a trace is told of, by its id and where it comes from."""
    if config.name == "always_on":
        return lambda trace_id, parent: True
    if config.name == "always_off":
        return lambda trace_id, parent: False
    if config.name == "trace_id_ratio":
        limit = int(config.options.fraction * (1 << 63))
        return lambda trace_id, parent: int(trace_id[16:], 16) >> 1 < limit
    of_root = sampler(config.options.root)
    return lambda trace_id, parent: of_root(trace_id, None) if parent is None else parent.is_sampled


def read_parent(value: bytes | None) -> Parent | None:
    """Read a ``traceparent``; None when there is none that is valid."""
    found = _PARENT.fullmatch(value) if value is not None else None
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = found[2], found[3]
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return Parent(trace_id, span_id, bool(int(found[4], 16) & SAMPLED))


def attribute(name: str, value: str | bool | int | float) -> dict[str, Any]:
    """Write an attribute as OTLP's JSON does."""
    kind = "stringValue"
    if isinstance(value, bool):
        kind = "boolValue"
    elif isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    elif isinstance(value, float):
        kind = "doubleValue"
    return {"key": name, "value": {kind: value}}
