"""limit-conn (plugins.md section 5)."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.worker.plugins.counting import Counting
from tests.worker.plugins.refusals import complaint
from worker.http.http1_server import Http1Server
from worker.plugins.testing import PluginKit
from worker.shared_state.locks import Busy

TWO = {"conn": 2, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"}


@contextmanager
def under_way(kit: PluginKit, times: int, headers: str = "") -> Iterator[list[Http1Server]]:
    """Have requests under way, for the answers to which the upstream takes its time."""
    answers = kit.upstream_answers
    kit.upstream_answers = b""
    connections = []
    for _ in range(times):
        connection = kit.connect()
        connection.data_received(f"GET / HTTP/1.1\r\nHost: a.com\r\n{headers}\r\n".encode())
        connections.append(connection)
    kit.run(asyncio.sleep(0))
    kit.upstream_answers = answers
    yield connections
    for connection in connections:
        connection.connection_lost(None)


def test_what_is_too_much_is_refused_until_another_is_over() -> None:
    with PluginKit({"limit-conn": {**TWO, "rejected_code": 429, "rejected_msg": "full"}}) as kit:
        with under_way(kit, 2) as clients:
            answer = kit.request()
            assert (answer.status, answer.body, answer.upstream) == (429, b'{"error_msg":"full"}\n', None)
            clients.pop().connection_lost(None)  # a client that goes away gives back what it held
            assert [kit.request().status for _ in range(3)] == [200] * 3
        assert kit.request().status == 200
    with PluginKit({"limit-conn": {**TWO, "conn": 1}}) as kit, under_way(kit, 1):
        assert b"<h1>503 Service Unavailable</h1>" in kit.request().body


def test_what_is_over_is_given_back_whatever_its_answer() -> None:
    plugins = {"limit-conn": {**TWO, "conn": 1}, "limit-count": {"count": 1, "time_window": 60}}
    with PluginKit(plugins) as kit:
        assert [kit.request().status for _ in range(3)] == [200, 503, 503]
        kit.upstream_answers = b"nonsense\r\n\r\n"
        kit.put("routes/kit", route({"limit-conn": {**TWO, "conn": 1}}))
        assert [kit.request().status for _ in range(3)] == [502] * 3


def route(plugins: dict[str, Any]) -> dict[str, Any]:
    return {"uri": "/*", "upstream": {"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}}, "plugins": plugins}


@pytest.mark.parametrize(("before", "least", "most"), [(0, 0.0, 1.0), (1, 0.1, 10), (2, 0.2, 10), (3, 0.3, 10)])
def test_what_is_too_much_but_not_by_far_begins_later(before: int, least: float, most: float) -> None:
    counting = Counting()
    plugins = {"limit-conn": {**TWO, "conn": 1, "burst": 3}}
    kits = [counting.begin(PluginKit(plugins), number) for number in range(2)]
    with kits[0] as kit, kits[1] as other:
        with under_way(other, before):
            began = time.monotonic()
            assert kit.request().status == 200
            assert least <= time.monotonic() - began < most
        with under_way(other, 4):
            assert kit.request().status == 503


def test_a_client_that_goes_while_it_waits_gives_back() -> None:
    with PluginKit({"limit-conn": {**TWO, "conn": 1, "burst": 1, "default_conn_delay": 60}}) as kit:
        with under_way(kit, 2):
            assert kit.request().status == 503
        assert kit.request().status == 200


@pytest.mark.parametrize(
    "key", [{"key": "http_x_user"}, {"key": "$http_x_user-$http_none", "key_type": "var_combination"}]
)
def test_keys(key: dict[str, str]) -> None:
    with PluginKit({"limit-conn": {**TWO, "conn": 1, **key}}) as kit:
        with under_way(kit, 1, "X-User: a\r\n"):
            assert kit.request(headers={"X-User": "a"}).status == 503
            assert kit.request(headers={"X-User": "b"}).status == 200
            assert kit.request().status == 200
        with under_way(kit, 1):
            assert kit.request().status == 503
            assert kit.request(remote="1.1.1.1").status == 200


def test_rules_apply_where_their_key_has_a_value() -> None:
    rules = [{"conn": 2, "burst": 0, "key": "$http_a"}, {"conn": 1, "burst": 0, "key": "$http_b"}]
    with PluginKit({"limit-conn": {"rules": rules, "default_conn_delay": 0.1}}) as kit:
        with under_way(kit, 1, "A: 1\r\nB: 1\r\n"):
            assert kit.request(headers={"A": "1", "B": "1"}).status == 503  # and gives back what it had of the first
            assert kit.request(headers={"A": "1"}).status == 200
            with under_way(kit, 1, "A: 1\r\n"):
                assert kit.request(headers={"A": "1"}).status == 503
            assert kit.request().status == 200
        assert kit.request(headers={"A": "1", "B": "1"}).status == 200


def test_workers_count_together_and_the_dead_hold_nothing() -> None:
    counting = Counting()
    kits = [counting.begin(PluginKit({"limit-conn": TWO}), number) for number in range(2)]
    with kits[0] as one, kits[1] as two, under_way(one, 2):
        assert two.request().status == 503
        counting.state.clear(0)
        assert two.request().status == 200


def test_a_request_waits_while_somebody_gives_out_places(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"conn": 1, "burst": 1, "key": "$uri"}, {"conn": 1, "burst": 1, "key": "$method"}]
    with PluginKit({"limit-conn": {"rules": rules, "default_conn_delay": 0.001}}) as kit:
        counters = kit.context.plugins.services.counters
        busy = [False, True, True, False]
        hold = type(counters).hold

        def held(self: Any, *arguments: Any) -> Any:
            if busy and busy.pop(0):
                raise Busy
            return hold(self, *arguments)

        monkeypatch.setattr(type(counters), "hold", held)
        with under_way(kit, 1):
            assert kit.request().status == 200
        assert busy == []
        with under_way(kit, 2):
            assert kit.request().status == 503
        assert kit.request().status == 200


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "default_conn_delay"),
        ({"default_conn_delay": 1}, "conn, burst and key, or rules, must be given"),
        ({**TWO, "conn": 0}, ".conn"),
        ({**TWO, "burst": -1}, ".burst"),
        ({**TWO, "default_conn_delay": 0}, ".default_conn_delay"),
        ({**TWO, "key": ""}, ".key"),
        ({**TWO, "key_type": "constant"}, "var, var_combination"),
        ({**TWO, "rules": [{"conn": 1, "burst": 1, "key": "$uri"}]}, ".rules"),
        ({"default_conn_delay": 1, "rules": []}, ".rules"),
        ({"default_conn_delay": 1, "rules": [{"conn": 1, "burst": 1}]}, ".rules[0]"),
        ({"default_conn_delay": 1, "rules": [{"conn": 1, "burst": 1, "key": "$uri"}] * 2}, ".rules[1].key"),
        ({**TWO, "policy": "redis-sentinel"}, ".policy"),
        ({**TWO, "rejected_code": 600}, ".rejected_code"),
        ({**TWO, "policy": "redis"}, "policy redis needs redis_host"),
        ({**TWO, "policy": "redis-cluster", "redis_cluster_nodes": ["a:1"]}, "needs redis_cluster_name"),
        (
            {**TWO, "policy": "redis-cluster", "redis_cluster_nodes": ["a"], "redis_cluster_name": "c"},
            ".redis_cluster_nodes[0]: must be host:port",
        ),
        ({**TWO, "policy": "redis", "redis_host": "a", "redis_port": 0}, ".redis_port"),
        ({**TWO, "policy": "redis", "redis_host": "a", "redis_timeout": 0}, ".redis_timeout"),
    ],
)
def test_refusals(config: dict[str, Any], expected: str) -> None:
    assert expected in complaint("limit-conn", config)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install propylon[redis]" in complaint("limit-conn", {**TWO, "policy": "redis", "redis_host": "a"})
