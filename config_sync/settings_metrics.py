"""What the settings say of metrics: ``plugin_attr.prometheus``."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from config_sync.errors import SettingsError

KEY = "plugin_attr.prometheus"
BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000, 60000)  # milliseconds
MOST_BUCKETS = 24
MOST_SERIES = 16_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ExportAddress(msgspec.Struct, frozen=True):
    """Where metrics are served."""

    ip: str = "127.0.0.1"
    port: int = 9091


class ExtraLabel(msgspec.Struct, frozen=True):
    """A label whose value is a variable's."""

    name: str
    variable: str


class MetricSettings(msgspec.Struct, frozen=True):
    """One metric: further labels, and after how many seconds without a change a series is dropped; 0: never."""

    extra_labels: tuple[dict[str, str], ...] = ()
    expire: int = 0

    def labels(self) -> tuple[ExtraLabel, ...]:
        """Return the further labels."""
        return tuple(
            ExtraLabel(name, text.removeprefix("$")) for each in self.extra_labels for name, text in each.items()
        )


class PrometheusSettings(msgspec.Struct, frozen=True):
    """All of them; members that are not known are passed over. ``max_series`` is not APISIX's."""

    export_uri: str = "/apisix/prometheus/metrics"
    metric_prefix: str = "apisix_"
    enable_export_server: bool = True
    export_addr: ExportAddress = ExportAddress()
    default_buckets: tuple[float, ...] = BUCKETS
    metrics: dict[str, MetricSettings] = {}
    max_series: int = 8_192

    def of(self, metric: str) -> MetricSettings:
        """Return what is said of one metric."""
        return self.metrics.get(metric, MetricSettings())


def prometheus_settings(plugin_attr: Mapping[str, Any]) -> PrometheusSettings:
    """Read them.

    Raises:
        SettingsError: with the key, and what is wrong.
    """
    try:
        read = msgspec.convert(plugin_attr.get("prometheus") or {}, PrometheusSettings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{KEY}: {error}") from error

    def require(holds: bool, name: str, text: str) -> None:
        if not holds:
            raise SettingsError(f"{KEY}.{name}: {text}")

    buckets = read.default_buckets
    require(0 < len(buckets) <= MOST_BUCKETS, "default_buckets", f"must be 1 to {MOST_BUCKETS}")
    require(list(buckets) == sorted(set(buckets)) and buckets[0] > 0, "default_buckets", "must ascend from above 0")
    require(all(bound == int(bound) for bound in buckets), "default_buckets", "must be whole milliseconds")
    require(1 <= read.max_series <= MOST_SERIES, "max_series", f"must be 1 to {MOST_SERIES}")
    require(1 <= read.export_addr.port <= 65535, "export_addr.port", "must be 1 to 65535")
    require(read.export_uri.startswith("/"), "export_uri", "must begin with a slash")
    require(_NAME.fullmatch(f"{read.metric_prefix}a") is not None, "metric_prefix", "must be letters, digits and _")
    for metric, own in read.metrics.items():
        for label in own.labels():
            require(_NAME.fullmatch(label.name) is not None, f"metrics.{metric}.extra_labels", f"{label.name!r}")
    return read
