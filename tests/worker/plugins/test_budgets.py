"""What plugins may cost: failures, time that is waited, time that is not; and how it is told."""

import asyncio
import logging
import time
from typing import Any

import msgspec
import pytest

from worker.api.messages import Answer as ControlAnswer
from worker.api.messages import Request
from worker.api.plugins import PluginHandlers
from worker.exchange import Exchange
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin
from worker.plugins.response_head import ResponseHead
from worker.plugins.statistics import PluginStatistics
from worker.plugins.testing import PluginKit
from worker.scoreboard import Scoreboard


class CostConfig(msgspec.Struct):
    """What it costs."""

    fails: bool = False
    waits: float = 0.0
    blocks: str = ""


class Costly(Plugin[CostConfig]):
    """Fails, waits or blocks."""

    name = "costly"
    priority = 7
    Config = CostConfig

    def rewrite(self, exchange: Exchange) -> Any:
        if self.config.fails:
            raise RuntimeError("on purpose")
        self._block("rewrite")
        return asyncio.sleep(self.config.waits) if self.config.waits else None

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        self._block("header_filter")
        head.fields.add(b"X-Costly", b"1")

    def body_filter(self, exchange: Exchange, data: bytes, is_last: bool) -> bytes:
        if is_last:
            self._block("body_filter")
        return data

    def log(self, exchange: Exchange) -> None:
        self._block("log")

    def _block(self, phase: str) -> None:
        if self.config.blocks == phase:
            time.sleep(0.03)


class CostlyGuard(Costly):
    """The same, and nobody gets through without it."""

    name = "costly-guard"
    fails_closed = True


def kit(config: dict[str, Any], name: str = "costly", **settings: Any) -> PluginKit:
    return PluginKit({name: config}, extra=(Costly, CostlyGuard), settings={"plugins": settings})


def shown(worker: PluginKit, path: str = "/v1/plugins/costly") -> dict[str, Any]:
    """Ask the control interface."""
    handlers = PluginHandlers(worker.context.plugins, Scoreboard(1).allocate(0, 1))
    handle = handlers.all if path == "/v1/plugins" else handlers.one
    answer = handle(Request("GET", path, ""))
    assert isinstance(answer, ControlAnswer)
    decoded: dict[str, Any] = msgspec.json.decode(answer.body)
    return {"status": answer.status, **decoded}


@pytest.mark.parametrize("phase", ["rewrite", "header_filter", "body_filter", "log"])
def test_one_that_blocks_is_named_but_not_each_time(phase: str, caplog: pytest.LogCaptureFixture) -> None:
    with kit({"blocks": phase}) as worker:
        for _ in range(3):
            worker.request()
        blocked = worker.context.plugins.blocked["costly"]
        assert blocked >= 3  # more where the machine itself stands still
        assert shown(worker)["blocked"] == blocked
    assert caplog.text.count("plugin costly has blocked the event loop for") == 1


def test_what_is_told_again_says_how_often(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    statistics = PluginStatistics(clock=lambda: now)
    for number in range(25):
        now = number * 1.0
        statistics.blocked("x", 0.05)
        statistics.failed("x", RuntimeError("no"))
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said == [
        "plugin x has failed",
        "plugin x has failed (10 times since it was last said)",
        "plugin x has failed (10 times since it was last said)",
    ]
    assert sum("50 ms" in record.getMessage() for record in caplog.records) == 3


def test_a_hook_that_waits_too_long_is_given_up() -> None:
    with kit({"waits": 60}, hook_timeout=0.2) as worker:
        assert worker.request().status == 500
        about = shown(worker)
        assert (about["failures"], about["late"]) == (1, 1)
        assert "hook_timeout" in about["last_failure"]
    with kit({"waits": 60}, hook_timeout=0.2, on_failure="bypass") as worker:
        assert worker.request().status == 200
    with kit({"waits": 1.5}, hook_timeout=0) as worker:
        assert worker.request().status == 200


def test_one_that_fails_too_often_is_passed_over_for_a_while() -> None:
    with kit({"fails": True}, failure_budget=2, failure_window=0.3) as worker:
        assert [worker.request().status for _ in range(4)] == [500, 500, 500, 200]
        assert shown(worker)["passed_over"] is True
        assert worker.request().header("x-costly") is None

        async def again() -> None:
            while worker.context.plugins.suspended:  # noqa: ASYNC110 - its end has no event
                await asyncio.sleep(0.01)

        worker.run(again())
        assert worker.request().status == 500
        assert shown(worker)["passed_over"] is False
    with kit({"fails": True}, failure_budget=0) as worker:
        assert {worker.request().status for _ in range(20)} == {500}
    with kit({"fails": True}, "costly-guard", failure_budget=2) as worker:
        assert {worker.request().status for _ in range(5)} == {500}


def test_failures_that_are_far_apart_cost_nobody_the_plugin() -> None:
    now = 0.0
    spent: list[str] = []
    statistics = PluginStatistics(2, 10.0, spent.append, lambda: now)
    for number in range(10):
        now = number * 6.0
        statistics.failed("x", RuntimeError("no"))
    assert spent == []
    statistics.failed("x", RuntimeError("no"))
    assert spent == ["x"]


def test_the_control_interface_shows_every_plugin() -> None:
    with kit({}) as worker:
        worker.request()
        about = shown(worker)
        assert about.pop("average_us") > 0
        assert {name: about[name] for name in about if name not in ("slot", "pid", "timed_calls")} == {
            "status": 200,
            "name": "costly",
            "priority": 7,
            "phases": ["rewrite", "header_filter", "body_filter", "log"],
            "source": "the test",
            "enabled": True,
            "fails_closed": False,
            "uses": 1,
            "failures": 0,
            "late": 0,
            "blocked": 0,
            "passed_over": False,
            "used_in": ["routes/kit"],
        }
        everything = shown(worker, "/v1/plugins")
        names = [item["name"] for item in everything["items"]]
        assert everything["total"] == len(names)
        assert names.index("real-ip") < names.index("key-auth") < names.index("costly")
        assert next(item for item in everything["items"] if item["name"] == "key-auth")["fails_closed"] is True
        assert shown(worker, "/v1/plugins/none")["status"] == 404


def test_calls_are_timed_on_some_requests() -> None:
    messages: list[tuple[str, str, dict[str, str], bytes]] = [("GET", "/", {}, b"")]
    with kit({}) as worker:
        worker.requests(messages * 40)
        assert shown(worker)["timed_calls"] == 3 * 5  # of requests 0, 16 and 32; the body comes in two pieces


def test_an_answer_of_a_guard_is_no_failure() -> None:
    class Refusing(Plugin[CostConfig]):
        name = "refusing"

        def access(self, exchange: Exchange) -> Answer | None:
            return Answer(403)

    with PluginKit({"refusing": {}}, extra=(Refusing,)) as worker:
        assert worker.request().status == 403
        assert worker.context.plugins.failures == {}
