"""``plugin_attr.prometheus`` (admin-api.md section 12)."""

from typing import Any

import pytest

from config_sync.errors import SettingsError
from config_sync.settings import Address
from config_sync.settings_file import read_settings
from config_sync.settings_metrics import BUCKETS, ExtraLabel, prometheus_settings


def test_defaults() -> None:
    read = prometheus_settings({})
    assert read.export_uri == "/apisix/prometheus/metrics"
    assert (read.metric_prefix, read.default_buckets) == ("apisix_", BUCKETS)
    settings = read_settings({}, {})
    assert settings.metrics_address() == Address("127.0.0.1", 9091)
    assert settings.is_optional(Address("127.0.0.1", 9091))


def test_what_may_be_set() -> None:
    metrics = {"http_status": {"extra_labels": [{"addr": "$remote_addr"}], "expire": 60}}
    own = {
        "export_addr": {"ip": "::1", "port": 9100},
        "metrics": metrics,
        "refresh_interval": 5,
        "default_buckets": [1, 2],
    }
    settings = read_settings({"plugin_attr": {"prometheus": own}}, {})
    address = Address("::1", 9100)
    assert settings.metrics_address() == address
    assert not settings.is_optional(address)
    assert settings.key_of(address) == "plugin_attr.prometheus.export_addr"
    assert settings.api_addresses() == [Address("127.0.0.1", 9090), address]
    read = prometheus_settings(settings.plugin_attr)
    assert read.of("http_status").labels() == (ExtraLabel("addr", "remote_addr"),)
    assert (read.of("http_status").expire, read.of("bandwidth").expire) == (60, 0)
    off = read_settings({"plugin_attr": {"prometheus": {"enable_export_server": False}}}, {})
    assert off.metrics_address() is None


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"export_addr": {"port": 0}}, "export_addr.port: must be 1 to 65535"),
        ({"export_addr": {"ip": "nowhere"}}, "export_addr"),
        ({"export_addr": {"port": "x"}}, "export_addr.port"),
        ({"export_addr": {"port": 9090}}, "export_addr: must be an address of its own"),
        ({"export_uri": "metrics"}, "export_uri: must begin with a slash"),
        ({"metric_prefix": "my-"}, "metric_prefix"),
        ({"default_buckets": []}, "default_buckets: must be 1 to 24"),
        ({"default_buckets": [2, 1]}, "default_buckets: must ascend"),
        ({"default_buckets": [0.5]}, "default_buckets: must be whole milliseconds"),
        ({"max_series": 0}, "max_series"),
        ({"metrics": {"http_status": {"extra_labels": [{"a-b": "$x"}]}}}, "metrics.http_status.extra_labels: 'a-b'"),
    ],
)
def test_what_cannot_be_is_refused(own: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read_settings({"plugin_attr": {"prometheus": own}}, {})
    assert str(raised.value).startswith("plugin_attr.prometheus")
    assert reason in str(raised.value)
