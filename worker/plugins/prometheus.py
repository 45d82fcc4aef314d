"""Counts requests for Prometheus: by status, how long they took, and their bytes.

    prefer_name   routes and services are called by their names, where they have one

Metadata: ``disabled_labels``, by metric the labels that are to be empty. It is served as ``plugin_attr.prometheus`` of
the settings says, by default at ``http://127.0.0.1:9091/apisix/prometheus/metrics`` (docs/reference/metrics.md), and at
that path also where ``public-api`` opens it. Where a global rule and the route have this plugin, the route's counts.

    http_status    code, route, matched_uri, matched_host, service, consumer, node, request_type, request_llm_model,
                   llm_model, response_source
    http_latency   type (request, upstream, apisix), route, service, consumer, node, request_type, …
    bandwidth      type (ingress, egress), then as http_latency

What chunked coding adds to a body is not in ``bandwidth``.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from config_sync.settings_metrics import prometheus_settings
from worker.errors import DownstreamError, UpstreamError
from worker.messages import CHUNKED, OF_LENGTH
from worker.observability.existence import Origin
from worker.observability.exposition import CONTENT_TYPE
from worker.observability.families import Family, Histogram
from worker.observability.metrics import Metrics
from worker.plugins.answer import Answer, error_message
from worker.plugins.base import Endpoint, Plugin, Scope
from worker.routing.hosts import HostCondition
from worker.variables import accessor
from worker.variables.values import shown

if TYPE_CHECKING:
    from worker.errors import ProxyError
    from worker.exchange import Exchange
    from worker.messages import Request, Response
    from worker.routing.route import Route

MOST_REMEMBERED = 20_000  # sets of labels of one use of the plugin
MOST_ALIKE = 400  # kinds of requests that are added up in one step: about 1 ms
REQUEST_TYPE = "traditional_http"
NO_MODELS = "", ""  # request_llm_model, llm_model
Cells = tuple[list[int], list[int], list[int]]  # of the three families, for one set of labels
# How many requests of one kind there were, the bytes of them and of their answers, where they count, and the
# milliseconds that each took, in all and at the upstream (-1: none). Not a class: a list is quicker.
Alike = list[Any]


class PrometheusConfig(msgspec.Struct):
    """How routes and services are called."""

    prefer_name: bool = False


class PrometheusMetadata(msgspec.Struct):
    """Labels that are to be empty, by metric."""

    disabled_labels: dict[str, list[str]] = {}


class Prometheus(Plugin[PrometheusConfig]):
    """Counts in ``log``."""

    name = "prometheus"
    priority = 500
    Config = PrometheusConfig
    Metadata = PrometheusMetadata
    prefers_route = True
    only_observes = True

    def __init__(self, config: PrometheusConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._metrics: Metrics = scope.services.metrics
        self._families = self._metrics.http
        self._disabled = [_disabled_at(family, scope.metadata) for family in self._families]
        self._extra = [[accessor(label.variable) for label in family.extra] for family in self._families]
        self._remembered: dict[Any, Cells] = {}
        self._alike: dict[Any, Alike] = {}
        self._metrics.caches.append(self._remembered)
        before_flush, adding = self._metrics.before_flush, partial(add_up, self._alike, self._families.latency)
        before_flush.append(adding)
        # Requests that were under way when it was closed are counted as well.
        weakref.finalize(self, _end, before_flush, adding).atexit = False
        self.log = self._counting()  # type: ignore[method-assign,assignment]  # a closure is quicker

    @classmethod
    def endpoints(cls, attribute: Mapping[str, Any]) -> Mapping[tuple[bytes, bytes], Endpoint]:
        """Return what a scrape gets."""
        path = prometheus_settings({cls.name: attribute}).export_uri.encode()
        return {(b"GET", path): scraped, (b"HEAD", path): scraped}

    def log(self, exchange: "Exchange") -> None:
        """Count a request; replaced by ``_counting``."""

    def close(self) -> None:
        """Begin nothing anew; the last request under way ends it."""
        metrics = self._metrics
        metrics.caches[:] = [cache for cache in metrics.caches if cache is not self._remembered]
        self._remembered.clear()
        self.__dict__.pop("log", None)  # which has us

    def _counting(self) -> "Callable[[Exchange], None]":
        """Make the hook: requests that are alike, to the millisecond, are counted as one, and added up later."""
        alike, begin = self._alike, self._begin
        now = self.scope.services.loop.time
        has_extra = any(self._extra)

        def log(exchange: "Exchange") -> None:
            run, request, route = exchange.run, exchange.request, exchange.route
            assert run is not None and request is not None  # noqa: S101, PT018 - hooks run in one
            started, sent_at, ended = exchange.started, run.sent_at, now()
            total = int((ended - started) * 1000 + 0.5)
            upstream, peer = -1, exchange.peer
            if peer is not None:
                upstream = total if sent_at == started else int((ended - sent_at) * 1000 + 0.5)
            key: Any = route, peer, exchange.status, request.pattern, total, upstream
            if (
                run.consumer is not None
                or run.answer is not None
                or exchange.error is not None
                or has_extra
                or (route is not None and len(route.hosts) > 1)
            ):
                key = (*key, *self._details(exchange, has_extra))
            count = alike.get(key)
            if count is None:
                count = begin(key, exchange)
            count[0] += 1
            body = exchange.buffered_body
            count[1] += request.size or request.measured()
            if body is not None or request.content_length:
                count[1] += len(body) if body is not None else request.content_length
            connection = exchange.connection
            if run.sent_head or connection is None or connection.response is None:
                count[2] += exchange.bytes_sent + len(run.sent_head)
            else:
                response = connection.response
                count[2] += exchange.bytes_sent + (response.size or measured(response))

        return log

    def _details(self, exchange: "Exchange", has_extra: bool) -> tuple[Any, ...]:
        """Return what else tells requests apart, where anything does."""
        run, request = exchange.run, exchange.request
        assert run is not None and request is not None  # noqa: S101, PT018 - hooks run in one
        consumer = run.consumer.username if run.consumer is not None else None
        extra = self._extra_values(exchange) if has_extra else ()
        return consumer, source_of(exchange), request.host, *extra

    def _begin(self, key: Any, exchange: "Exchange") -> Alike:
        """Begin to count requests that are alike."""
        if len(self._alike) >= MOST_ALIKE:
            add_up(self._alike, self._families.latency)
        route, peer, status, pattern, total, upstream, *details = key
        labels = (route, peer, status, pattern, *details)
        cells = self._remembered.get(labels)
        if cells is None:
            cells = self._find(labels, exchange)
        count = self._alike[key] = [0, 0, 0, cells, total, upstream]
        return count

    # the first time

    def _find(self, key: Any, exchange: "Exchange") -> Cells:
        """Return where to count an exchange, and remember that."""
        if len(self._remembered) >= MOST_REMEMBERED:
            self._remembered.clear()
        route, peer, run, request = exchange.route, exchange.peer, exchange.run, exchange.request
        assert run is not None and request is not None  # noqa: S101, PT018 - hooks run in one
        route_id = route.id if route is not None else ""
        service_id = route.service.id if route is not None and route.service is not None else ""
        consumer = run.consumer.username if run.consumer is not None else ""
        node = peer.host if peer is not None else ""
        pattern = request.pattern.text.decode("utf-8", "replace") if route is not None and request.pattern else ""
        traffic = (
            self._shown("routes", route_id),
            self._shown("services", service_id),
            consumer,
            node,
            REQUEST_TYPE,
            *NO_MODELS,
        )
        status = (
            str(exchange.status),
            traffic[0],
            pattern,
            matched_host(route, request),
            *traffic[1:],
            source_of(exchange),
        )
        origin = Origin(route_id, service_id, consumer, node)
        values = [(*labels, *self._values(at, exchange)) for at, labels in enumerate((status, traffic, traffic))]
        statuses, latency, bytes_ = (
            self._metrics.cells(family, self._enabled(at, labels), origin)
            for at, (family, labels) in enumerate(zip(self._families, values, strict=True))
        )
        found = self._remembered[key] = statuses, latency, bytes_
        return found

    def _shown(self, directory: str, id_: str) -> str:
        return self._metrics.existence.name(directory, id_) if self.config.prefer_name and id_ else id_

    def _enabled(self, family: int, labels: Sequence[str]) -> tuple[str, ...]:
        disabled = self._disabled[family]
        return tuple("" if at in disabled else label for at, label in enumerate(labels))

    def _extra_values(self, exchange: "Exchange") -> list[str]:
        return [value for at in range(len(self._families)) for value in self._values(at, exchange)]

    def _values(self, family: int, exchange: "Exchange") -> list[str]:
        values = (get(exchange) for get in self._extra[family])
        return ["" if value is None else shown(value) for value in values]


async def scraped(exchange: "Exchange", metadata: PrometheusMetadata) -> Answer:
    """Answer with what all workers have counted."""
    try:
        text = await exchange.downstream.context.plugins.services.scraping.text()
    except OverflowError:
        return error_message(500, "there are too many metrics; plugin_attr.prometheus.export_addr has them")
    return Answer(200, text, content_type=CONTENT_TYPE.encode())


def add_up(counted: dict[Any, Alike], histogram: Histogram) -> None:
    """Turn to the cells of the metrics what has been counted, and begin anew."""
    buckets, bucket = histogram.buckets, histogram.bucket
    for count in counted.values():
        requests, ingress, egress, (statuses, latency, bytes_), total, upstream = count
        statuses[0] += requests
        bytes_[0] += ingress
        bytes_[1] += egress
        own = max(0, total - max(0, upstream))
        latency[bucket(total)] += requests
        latency[2 * buckets + bucket(own)] += requests
        latency[-3] += requests * total
        latency[-1] += requests * own
        if upstream >= 0:
            latency[buckets + bucket(upstream)] += requests
            latency[-2] += requests * upstream
    counted.clear()


def _end(before_flush: list[Callable[[], None]], adding: Callable[[], None]) -> None:
    adding()
    before_flush.remove(adding)


def source_of(exchange: "Exchange") -> str:
    """Return who has answered: ``upstream``, ``apisix`` (its own logic), ``nginx`` (it could not go on)."""
    error: ProxyError | None = exchange.error
    if error is None:
        return "upstream" if exchange.run is None or exchange.run.answer is None else "apisix"
    is_routing = isinstance(error, DownstreamError | UpstreamError)
    return "nginx" if is_routing else "apisix"


def measured(response: "Response") -> int:
    """Return the size of an answer's head as a client gets it whose connection stays open; found out once."""
    size = len(response.head) + 2
    if response.framing is OF_LENGTH:
        size += len(b"Content-Length: %d\r\n" % response.content_length)
    elif response.framing >= CHUNKED:
        size += len(b"Transfer-Encoding: chunked\r\n")
    response.size = size
    return size


def matched_host(route: "Route | None", request: "Request") -> str:
    """Return the host pattern of a route that a request has matched; empty when the route has none."""
    hosts = route.hosts if route is not None else ()
    return next((host for host in hosts if HostCondition((host,)).holds(request)), "")


def _disabled_at(family: Family, metadata: PrometheusMetadata) -> set[int]:
    names = metadata.disabled_labels.get(family.name, [])
    return {at for at, name in enumerate(family.labels) if name in names}
