"""What is counted of requests, in APISIX's families (admin-api.md section 12)."""

from typing import NamedTuple

from config_sync.settings_metrics import ExtraLabel, PrometheusSettings
from worker.observability.families import Family, Histogram, Varied

STATUS_LABELS = (
    "code",
    "route",
    "matched_uri",
    "matched_host",
    "service",
    "consumer",
    "node",
    "request_type",
    "request_llm_model",
    "llm_model",
    "response_source",
)
TRAFFIC_LABELS = ("route", "service", "consumer", "node", "request_type", "request_llm_model", "llm_model")
LATENCIES = ("request", "upstream", "apisix")
DIRECTIONS = ("ingress", "egress")


class HttpFamilies(NamedTuple):
    """The three of them; ``latency`` in milliseconds."""

    status: Family
    latency: Histogram
    bandwidth: Varied


def http_families(settings: PrometheusSettings) -> HttpFamilies:
    """Return what is counted of requests."""

    def extra(name: str) -> tuple[ExtraLabel, ...]:
        return settings.of(name).labels()

    status = Family("http_status", "HTTP status codes per service in APISIX", STATUS_LABELS, extra=extra("http_status"))
    bounds = [int(bound) for bound in settings.default_buckets]
    latency = Histogram(
        "http_latency",
        "HTTP request latency in milliseconds per service in APISIX",
        bounds,
        TRAFFIC_LABELS,
        extra("http_latency"),
        "type",
        LATENCIES,
    )
    bandwidth = Varied(
        "bandwidth",
        "Total bandwidth in bytes consumed per service in APISIX",
        "type",
        DIRECTIONS,
        TRAFFIC_LABELS,
        extra("bandwidth"),
    )
    return HttpFamilies(status, latency, bandwidth)
