"""Settings files, good and bad."""

from pathlib import Path
from typing import Any

import pytest

from config_sync.errors import SettingsError
from config_sync.settings import EtcdSettings, Settings
from config_sync.settings_file import load_settings, read_settings

CONF = Path(__file__).parents[2] / "conf" / "config.yaml"


def test_the_commented_file_holds_every_key_with_its_default() -> None:
    settings = load_settings(CONF, {})
    assert settings == Settings()
    text = CONF.read_text()
    for name in (*Settings.__struct_fields__, *EtcdSettings.__struct_fields__, "cert", "key", "ca", "verify", "sni"):
        assert f"{name}:" in text


def test_a_discovery_without_entries_is_enabled() -> None:
    assert read_settings({"discovery": {"dns": None}}, {}).discovery.dns is not None
    assert Settings().discovery.dns is None


def test_sizes_and_times_of_caches() -> None:
    zone = {"name": "a", "memory_size": "1m", "disk_size": "2g", "disk_path": "/x"}
    cache = read_settings({"proxy_cache": {"cache_ttl": "2m", "zones": [zone]}}, {}).proxy_cache
    assert (cache.cache_ttl, cache.zones[0].memory_size, cache.zones[0].disk_size) == (120, 1 << 20, 2 << 30)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    assert load_settings(path, {}) == Settings()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"worker_procs": 1}, "worker_procs"),
        ({"etcd": {"hosts": []}}, "etcd: Object contains unknown field `hosts`"),
        ({"worker_processes": 0}, "worker_processes"),
        ({"worker_processes": "many"}, "worker_processes"),
        ({"listen": []}, "listen"),
        ({"listen": ["nowhere:80"]}, "listen[0]"),
        ({"listen": ["127.0.0.1:80", "127.0.0.1:80"]}, "twice"),
        ({"client_max_body_size": "5x"}, "client_max_body_size"),
        ({"dns_resolver": ["dns.test"]}, "dns_resolver[0]: 'dns.test' is no IP address"),
        ({"dns_resolver": ["10.0.0.1:0"]}, "dns_resolver[0]"),
        ({"dns_resolver_valid": -1}, "dns_resolver_valid"),
        ({"discovery": {"dns": {"servers": ["::1", "[::1]:x"]}}}, "discovery.dns.servers[1]"),
        ({"discovery": {"dns": {"order": ["A", "MX"]}}}, "discovery.dns.order[1]"),
        ({"discovery": {"consul": {}}}, "discovery.consul: is not available yet; dns is"),
        ({"discovery": {"zookeeper": {}}}, "zookeeper"),
        ({"keepalive_timeout": 0}, "keepalive_timeout"),
        ({"keepalive_timeout": "soon"}, "keepalive_timeout"),
        ({"log_level": "loud"}, "log_level"),
        ({"etcd": {"prefix": "apisix/"}}, "etcd.prefix"),
        ({"etcd": {"timeout": -1}}, "etcd.timeout"),
        ({"real_ip_from": ["10.0.0.300"]}, "real_ip_from[0]"),
        ({"real_ip_header": "X Real"}, "real_ip_header"),
        ({"real_ip_header": "proxy_protocol"}, "not available"),
        ({"trusted_addresses": ["10.0.0.0/8", "unix:"]}, "trusted_addresses[1]"),
        ({"max_post_args_readable_size": -1}, "max_post_args_readable_size"),
        ({"proxy_cache": {"cache_ttl": "soon"}}, "proxy_cache.cache_ttl"),
        ({"proxy_cache": {"cache_ttl": 0}}, "proxy_cache.cache_ttl"),
        ({"proxy_cache": {"zones": [{"name": "a b"}]}}, "proxy_cache.zones[0].name"),
        ({"proxy_cache": {"zones": [{"name": "a"}, {"name": "a"}]}}, "proxy_cache.zones[1].name"),
        ({"proxy_cache": {"zones": [{"name": "a", "memory_size": "5x"}]}}, "proxy_cache.zones[0].memory_size"),
        ({"proxy_cache": {"zones": [{"name": "a", "memory_size": 0}]}}, "proxy_cache.zones[0].memory_size"),
        ({"proxy_cache": {"zones": [{"name": "a", "disk_path": "a"}]}}, "proxy_cache.zones[0]: disk_path"),
        ({"proxy_cache": {"zones": [{"name": "a", "cache_levels": "3"}]}}, "proxy_cache.zones[0].cache_levels"),
        ({"pid": "${{NOWHERE}}"}, "pid: the environment has no NOWHERE"),
    ],
)
def test_bad_settings_name_the_key(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=r".*") as caught:
        read_settings(tree, {})
    assert message in str(caught.value)


def test_files_that_are_no_settings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text in ("a: [", "- 1", "just text", "listenn: 1"):
        path.write_text(text)
        with pytest.raises(SettingsError, match=r"config\.yaml: "):
            load_settings(path, {})
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(tmp_path / "none", {})


def test_values_from_the_environment_keep_their_kind_and_cannot_add_structure() -> None:
    tree = {
        "worker_processes": "${{N:=auto}}",
        "pid": "${{ NAME }}.pid",
        "etcd": {"host": ["${{HOST:=http://127.0.0.1:2379}}"], "password": "${{SECRET}}"},
    }
    hostile = "x: {evil: [1]}"
    settings = read_settings(tree, {"N": "3", "NAME": hostile, "SECRET": "a#b"})
    assert settings.worker_processes == 3
    assert settings.pid == f"{hostile}.pid"
    assert settings.etcd.host == ("http://127.0.0.1:2379",)
    assert settings.etcd.password == "a#b"
    assert "a#b" not in repr(settings)


def test_etcd_hosts_of_the_environment_win() -> None:
    environment = {"APISIX_DEPLOYMENT_ETCD_HOST": '["http://a:1","http://b:2"]'}
    assert read_settings({"etcd": {"host": "http://c:3"}}, environment).etcd.host == ("http://a:1", "http://b:2")
    with pytest.raises(SettingsError, match="APISIX_DEPLOYMENT_ETCD_HOST"):
        read_settings({}, {"APISIX_DEPLOYMENT_ETCD_HOST": "http://a:1"})


def test_sizes_and_the_ways_to_say_no_log() -> None:
    settings = read_settings({"client_max_body_size": "8m", "large_client_header_buffers": "32K"}, {})
    assert settings.client_max_body_size == 8 * 1024 * 1024
    assert settings.large_client_header_buffers == 32_768
    assert read_settings({"access_log": False}, {}).access_log_path() is None
    assert read_settings({"access_log": "off"}, {}).access_log_path() is None
    assert read_settings({"access_log": "a.log"}, {}).access_log_path() == Path("run/a.log")
