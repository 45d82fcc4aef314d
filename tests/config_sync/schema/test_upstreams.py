"""Upstreams as APISIX's tools write them, good and bad."""

import json
from typing import Any

import pytest

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema import Node, decode_route, decode_upstream
from config_sync.schema.upstreams import ActiveHealthy, ActiveUnhealthy
from tests.config_sync.schema.values import CERTIFICATE, KEY, KEYS, NODES, encrypted, raw


def test_nodes_as_a_map_keep_their_order() -> None:
    value = {"nodes": {"b.com:81": 2, "a.com": 1, "[::1]:82": 3, "::2": 4}}
    upstream, _ = decode_upstream("1", raw(value))
    assert upstream.nodes == (Node("b.com", 2, 81), Node("a.com", 1), Node("[::1]", 3, 82), Node("[::2]", 4))


def test_empty_nodes_are_valid() -> None:
    nodes: object
    for nodes in ([], {}):
        assert decode_upstream("1", raw({"nodes": nodes}))[0].nodes == ()


def test_whole_numbers_may_be_written_as_fractions() -> None:
    upstream, _ = decode_upstream(
        "1",
        raw(
            {
                "id": 4.0,
                "retries": 1.0,
                "nodes": [{"host": "a", "port": 80.0, "weight": 1.0, "priority": 2.0}],
                "keepalive_pool": {"size": 3.0, "requests": 5.0},
            }
        ),
    )
    assert (upstream.retries, upstream.nodes) == (1, (Node("a", 1, 80, 2),))
    assert upstream.keepalive_pool is not None
    assert (upstream.keepalive_pool.size, upstream.keepalive_pool.requests) == (3, 5)


@pytest.mark.parametrize(
    ("hash_on", "key"),
    [
        ("vars", "remote_addr"),
        ("vars", "arg_device-id"),
        ("header", "X-User_1"),
        ("cookie", "session"),
        ("vars_combinations", "$request_uri$remote_addr"),
        ("consumer", None),
    ],
)
def test_what_chash_may_hash_on(hash_on: str, key: str | None) -> None:
    value = {**NODES, "type": "chash", "hash_on": hash_on, **({"key": key} if key is not None else {})}
    assert decode_upstream("1", raw(value))[0].key == key


def test_an_upstream_by_discovery() -> None:
    upstream, _ = decode_upstream("1", raw({"service_name": "s", "discovery_type": "dns"}))
    assert (upstream.nodes, upstream.service_name) == (None, "s")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({}, "$"),
        ({"service_name": "s"}, "$"),
        ({**NODES, "scheme": "ftp"}, "$.scheme"),
        ({**NODES, "hash_on": "moon"}, "$.hash_on"),
        ({**NODES, "labels": {"a": ""}}, "$.labels['a']"),
        ({**NODES, "tls": {"client_cert": "x"}}, "$.tls"),
        ({**NODES, "type": "chash", "hash_on": "cookie", "key": "a b"}, "$.key"),
        ({"nodes": {"a:²": 1}}, "$.nodes['a:²']"),
        ({"nodes": {"a:000080": 1}}, "$.nodes['a:000080']"),
        ({"nodes": {"[::1": 1}}, "$.nodes['[::1']"),
        ({"nodes": {"a:b:80": 1}}, "$.nodes['a:b:80']"),
        ({"nodes": {"a:0": 1}}, "$.nodes['a:0']"),
        ({"nodes": {"a:1": -1}}, "$.nodes['a:1']"),
        ({"nodes": [{"host": "a"}]}, "$.nodes[0]"),
        ({"nodes": [{"host": "a/b", "weight": 1}]}, "$.nodes[0].host"),
        ({**NODES, "pass_host": "rewrite"}, "$.upstream_host"),
        ({**NODES, "pass_host": "other"}, "$.pass_host"),
        ({**NODES, "type": "chash"}, "$.key"),
        ({**NODES, "type": "chash", "key": "nothing"}, "$.key"),
        ({**NODES, "retries": -1}, "$.retries"),
        ({**NODES, "keepalive_pool": {"size": 0}}, "$.keepalive_pool.size"),
        ({**NODES, "service_name": "s", "discovery_type": "dns"}, "$"),
    ],
)
def test_bad_upstreams_name_the_place(value: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        decode_upstream("1", raw(value))
    assert caught.value.path == path
    with pytest.raises(InvalidResource) as caught:
        decode_route("1", raw({"uri": "/a", "upstream": value}))
    assert caught.value.path == path.replace("$", "$.upstream", 1)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({**NODES, "tls": {"client_cert": "x", "client_key": "y", "client_cert_id": "1"}}, "$.tls"),
        ({**NODES, "tls": {"client_cert": "x", "client_key": KEY}}, "$.tls.client_cert"),
        ({**NODES, "tls": {"client_cert": CERTIFICATE, "client_key": "y" * 64}}, "$.tls.client_key"),
        ({**NODES, "tls": {"verify": "no"}}, "$.tls.verify"),
        ({**NODES, "upstream_host": "a b"}, "$.upstream_host"),
        ({**NODES, "timeout": {"connect": 1, "send": 1, "read": 0}}, "$.timeout.read"),
        ({**NODES, "retry_timeout": -0.5}, "$.retry_timeout"),
        ({**NODES, "checks": {}}, "$.checks"),
        ({**NODES, "checks": {"passive": {}}}, "$.checks"),
        ({**NODES, "checks": {"active": {"type": "udp"}}}, "$.checks.active.type"),
        ({**NODES, "checks": {"active": {"host": "a b"}}}, "$.checks.active.host"),
        ({**NODES, "checks": {"active": {"port": 0}}}, "$.checks.active.port"),
        ({**NODES, "checks": {"active": {"healthy": {"successes": 255}}}}, "$.checks.active.healthy.successes"),
        (
            {**NODES, "checks": {"active": {"healthy": {"http_statuses": [200, 600]}}}},
            "$.checks.active.healthy.http_statuses[1]",
        ),
        ({"nodes": {"a": None}}, "$.nodes['a']"),
        ({"nodes": {"a": True}}, "$.nodes['a']"),
        ({"nodes": {"a" * 400: 1}}, f"$.nodes['{'a' * 80}'...]"),
        ({"nodes": [{"host": "a", "weight": 1, "port": 70000}]}, "$.nodes[0].port"),
        ({"nodes": [{"host": "a", "weight": 1}, {"host": "", "weight": 1}]}, "$.nodes[1].host"),
        ({"nodes": 1}, "$.nodes"),
        ({"nodes": None}, "$.nodes"),
    ],
)
def test_bad_upstreams_in_their_finer_parts(value: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        decode_upstream("1", raw(value), Keyring(KEYS))
    assert caught.value.path == path


def test_a_reason_says_what_may_stand_there() -> None:
    with pytest.raises(InvalidResource) as caught:
        decode_upstream("1", raw({**NODES, "checks": {"active": {"type": "udp"}}}))
    assert caught.value.reason == "Invalid enum value 'udp'; must be one of http, https, tcp"


def test_defaults_of_health_checks() -> None:
    upstream, _ = decode_upstream("1", raw({**NODES, "checks": {"active": [], "passive": {"healthy": {}}}}))
    assert upstream.checks is not None
    active, passive = upstream.checks.active, upstream.checks.passive
    # Absent is as good as empty: a peer that went down must be able to come back.
    assert (active.healthy, active.unhealthy) == (ActiveHealthy(1, (200, 302), 2), ActiveUnhealthy())
    assert passive is not None
    assert passive.healthy.http_statuses == (*range(200, 209), 226, *range(300, 309))
    assert passive.unhealthy.timeouts == 7


def test_a_client_key_is_decrypted() -> None:
    for key in (KEY, encrypted(KEY), encrypted(KEY, KEYS[1])):
        tls = {"client_cert": CERTIFICATE, "client_key": key}
        upstream, _ = decode_upstream("1", raw({**NODES, "tls": tls}), Keyring(KEYS, are_fields_encrypted=False))
        assert upstream.tls is not None
        assert upstream.tls.client_key == KEY


def test_addresses_that_many_share_are_one_object() -> None:
    first, second = (decode_upstream(id_, json.dumps(NODES).encode())[0].nodes for id_ in "12")
    assert first is not None
    assert second is not None
    assert first[0] is second[0]
