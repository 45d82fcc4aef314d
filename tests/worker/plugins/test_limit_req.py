"""limit-req (plugins.md section 5)."""

import asyncio
import time
from typing import Any

import pytest

from tests.worker.plugins.counting import Counting
from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit
from worker.shared_state.locks import Busy

ONE = {"rate": 1, "burst": 0, "key": "remote_addr"}


def statuses(kit: PluginKit, times: int, **request: Any) -> list[int]:
    return [kit.request(**request).status for _ in range(times)]


def test_requests_pass_at_the_rate() -> None:
    counting = Counting()
    with counting.begin(PluginKit({"limit-req": ONE})) as kit:
        assert statuses(kit, 3) == [200, 503, 503]
        counting.clock.seconds += 0.9
        assert statuses(kit, 1) == [503]
        counting.clock.seconds += 0.1
        assert statuses(kit, 2) == [200, 503]
        counting.clock.seconds += 60
        assert statuses(kit, 2) == [200, 503]


def test_a_burst_is_let_through_at_once_when_nothing_is_delayed() -> None:
    counting = Counting()
    with counting.begin(PluginKit({"limit-req": {**ONE, "burst": 2, "nodelay": True}})) as kit:
        assert statuses(kit, 5) == [200, 200, 200, 503, 503]
        counting.clock.seconds += 1
        assert statuses(kit, 2) == [200, 503]


@pytest.mark.parametrize(("rate", "times", "least"), [(20, 3, 0.1), (10_000, 3, 0.0)])
def test_a_burst_waits_for_its_turn(rate: float, times: int, least: float) -> None:
    counting = Counting()  # whose time stands still: the second waits for 1 / rate, the third for 2 / rate
    with counting.begin(PluginKit({"limit-req": {**ONE, "rate": rate, "burst": 2}})) as kit:

        async def together() -> list[int]:
            return [answer.status for answer in await asyncio.gather(*[kit.ask() for _ in range(times)])]

        began = time.monotonic()
        assert kit.run(together()) == [200] * times
        assert least <= time.monotonic() - began
        assert statuses(kit, 1) == [503]


def test_rejection_is_as_configured() -> None:
    with Counting().begin(PluginKit({"limit-req": {**ONE, "rejected_code": 429, "rejected_msg": "slowly"}})) as kit:
        assert kit.request().status == 200
        answer = kit.request()
        assert (answer.status, answer.body) == (429, b'{"error_msg":"slowly"}\n')
    with Counting().begin(PluginKit({"limit-req": ONE})) as kit:
        kit.request()
        assert b"<h1>503 Service Unavailable</h1>" in kit.request().body


@pytest.mark.parametrize(
    ("key", "same", "other"),
    [
        ({}, {"remote": "1.1.1.1"}, {"remote": "1.1.1.2"}),
        ({"key": "http_x_user"}, {"headers": {"X-User": "a"}}, {"headers": {"X-User": "b"}}),
        ({"key": "http_x_user"}, {"remote": "1.1.1.1"}, {"remote": "1.1.1.2"}),
        (
            {"key": "$http_a $uri", "key_type": "var_combination"},
            {"headers": {"A": "1"}},
            {"headers": {"A": "1"}, "target": "/x"},
        ),
    ],
)
def test_keys(key: dict[str, str], same: dict[str, Any], other: dict[str, Any]) -> None:
    with Counting().begin(PluginKit({"limit-req": {**ONE, **key}})) as kit:
        assert statuses(kit, 2, **same) == [200, 503]
        assert statuses(kit, 2, **other) == [200, 503]


def test_workers_count_together() -> None:
    counting = Counting()
    kits = [counting.begin(PluginKit({"limit-req": ONE}), number) for number in range(2)]
    with kits[0] as one, kits[1] as two:
        assert [kit.request().status for kit in (one, two, one)] == [200, 503, 503]


def test_a_request_waits_while_somebody_gives_out_places(monkeypatch: pytest.MonkeyPatch) -> None:
    with PluginKit({"limit-req": {**ONE, "rate": 100, "burst": 1}}) as kit:
        counters = kit.context.plugins.services.counters
        busy = [True, True, False, True]
        pour = type(counters).pour

        def poured(self: Any, *arguments: Any) -> Any:
            if busy and busy.pop(0):
                raise Busy
            return pour(self, *arguments)

        monkeypatch.setattr(type(counters), "pour", poured)
        assert statuses(kit, 2) == [200, 200]
        assert busy == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "rate"),
        ({"rate": 1, "burst": 0}, "key"),
        ({**ONE, "rate": 0}, ".rate"),
        ({**ONE, "burst": -1}, ".burst"),
        ({**ONE, "key": ""}, ".key"),
        ({**ONE, "key_type": "constant"}, "var, var_combination"),
        ({**ONE, "policy": "redis-sentinel"}, ".policy"),
        ({**ONE, "rejected_code": 199}, ".rejected_code"),
        ({**ONE, "rejected_msg": ""}, ".rejected_msg"),
        ({**ONE, "policy": "redis"}, "policy redis needs redis_host"),
        ({**ONE, "policy": "redis-cluster", "redis_cluster_nodes": ["a:1"]}, "needs redis_cluster_name"),
        (
            {**ONE, "policy": "redis-cluster", "redis_cluster_nodes": ["a"], "redis_cluster_name": "c"},
            ".redis_cluster_nodes[0]: must be host:port",
        ),
        ({**ONE, "policy": "redis", "redis_host": "a", "redis_port": 0}, ".redis_port"),
        ({**ONE, "policy": "redis", "redis_host": "a", "redis_timeout": 0}, ".redis_timeout"),
    ],
)
def test_refusals(config: dict[str, Any], expected: str) -> None:
    assert expected in complaint("limit-req", config)


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install propylon[redis]" in complaint("limit-req", {**ONE, "policy": "redis", "redis_host": "a"})
