"""Hooks that wait: for something of their own, for the request's body, or for both."""

import asyncio
import gc
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest

from worker.exchange import Exchange
from worker.plugins.answer import Answer, message
from worker.plugins.base import Plugin
from worker.plugins.request_body import whole_body
from worker.plugins.testing import PluginKit

FORM = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": "20000"}
BODY = b"a=1&b=" + b"x" * 19_994


class LookConfig(msgspec.Struct):
    """How a body is looked at."""

    mode: str = ""
    status: int = 0


class Looking(Plugin[LookConfig]):
    """Wants the body, and does what ``mode`` says once it is there."""

    name = "looking"
    Config = LookConfig

    def access(self, exchange: Exchange) -> Answer | Awaitable[Answer | None] | None:
        if self.config.mode == "async first":
            return self._look(exchange) if exchange.buffered_body is None else self._answer(exchange)
        body = whole_body(exchange, 100_000)
        assert body is not None
        if self.config.mode == "awaitable":
            return self._answer_late(exchange)
        if self.config.mode == "both":
            return self._more(exchange)
        if self.config.mode == "fails":
            return self._fail()
        return self._answer(exchange)

    async def _look(self, exchange: Exchange) -> Answer | None:
        await asyncio.sleep(0)
        whole_body(exchange, 100_000)
        raise AssertionError("the body was not there")

    async def _answer_late(self, exchange: Exchange) -> Answer | None:
        await asyncio.sleep(0)
        return self._answer(exchange)

    async def _more(self, exchange: Exchange) -> Answer | None:
        await asyncio.sleep(0)
        whole_body(exchange, 200_000)
        return self._answer(exchange)

    async def _fail(self) -> Answer | None:
        await asyncio.sleep(0)
        raise RuntimeError("on purpose")

    def _answer(self, exchange: Exchange) -> Answer | None:
        content = exchange.buffered_body or b""
        return message(self.config.status, str(len(content))) if self.config.status else None


class Odd(Plugin[LookConfig]):
    """Does what a hook should not."""

    name = "odd"
    Config = LookConfig

    def access(self, exchange: Exchange) -> Any:
        if self.config.mode == "asks for ever":
            from worker.errors import BodyNeeded

            raise BodyNeeded(100)
        if self.config.mode == "tuple":
            return 401, {}
        return self._late()

    async def _late(self) -> Any:
        if self.config.mode == "cancelled":
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        await asyncio.sleep(0)
        return 401, {}


def kit(plugins: dict[str, Any], **more: Any) -> PluginKit:
    return PluginKit(plugins, extra=(Looking, Odd), **more)


@pytest.mark.parametrize("mode", ["", "async first", "awaitable", "both"])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_hook_that_is_called_again_may_answer_or_wait(mode: str, filtered: bool) -> None:
    meta = {"_meta": {"filter": [["post_arg_a", "==", "1"]]}} if filtered else {}
    with kit({"looking": {"mode": mode, "status": 403, **meta}}) as worker:
        for _ in range(2):
            answer = worker.request("POST", "/", FORM, BODY)
            assert (answer.status, answer.body) == (403, b'{"message":"20000"}\n')
    with kit({"looking": {"mode": mode, **meta}}) as worker:
        answer = worker.request("POST", "/", FORM, BODY)
        assert answer.status == 200
        assert answer.upstream is not None
        assert answer.upstream.body == BODY


def test_what_fails_when_called_again_is_the_plugins_failure() -> None:
    with kit({"looking": {"mode": "fails"}}) as worker:
        assert worker.request("POST", "/", FORM, BODY).status == 500
        assert worker.context.plugins.failures == {"looking": 1}
    with kit({"looking": {"mode": "fails"}}, settings={"plugins": {"on_failure": "bypass"}}) as worker:
        assert worker.request("POST", "/", FORM, BODY).status == 200
        assert worker.context.plugins.failures == {"looking": 1}


@pytest.mark.parametrize("mode", ["tuple", "asks for ever", "cancelled", "late tuple"])
def test_what_a_hook_should_not_do_is_a_500_and_the_connection_goes_on(mode: str) -> None:
    with kit({"odd": {"mode": mode}}) as worker:
        messages: list[tuple[str, str, dict[str, str], bytes]] = [("POST", "/", FORM, BODY), ("GET", "/", {}, b"")]
        assert [answer.status for answer in worker.requests(messages)] == [500, 500]
        assert worker.context.plugins.failures == {"odd": 2}


def test_requests_sent_ahead_wait_for_a_hook_that_waits() -> None:
    with kit({"looking": {"mode": "awaitable", "status": 403}}) as worker:

        async def both() -> bytes:
            connection = worker.connect()
            connection.data_received(b"GET /1 HTTP/1.1\r\nHost: a.com\r\n\r\nGET /2 HTTP/1.1\r\nHost: a.com\r\n\r\n")
            sent = b""
            while sent.count(b"HTTP/1.1 403") < 2:
                await asyncio.sleep(0.001)
                sent = connection.transport._data  # type: ignore[attr-defined]
            return sent

        assert worker.run(both()).count(b'{"message":"0"}\n') == 2


def test_a_hook_whose_client_has_gone_is_cancelled_and_leaves_nothing() -> None:
    ended: list[str] = []

    class Long(Plugin[LookConfig]):
        name = "long"
        Config = LookConfig

        async def access(self, exchange: Exchange) -> Answer | None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise RuntimeError("not the way to end") from None
            return None

        def log(self, exchange: Exchange) -> None:
            ended.append(f"log {exchange.status}")

    with PluginKit({"long": {}}, extra=(Long,)) as worker:

        async def leave() -> None:
            connection = worker.connect()
            connection.data_received(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n")
            await asyncio.sleep(0)
            connection.connection_lost(None)
            while len(ended) < 2:  # noqa: ASYNC110 - the end of a request has no event
                await asyncio.sleep(0.001)

        gc.collect()
        before = sum(isinstance(each, Exchange) for each in gc.get_objects())
        worker.run(leave())
        assert sorted(ended) == ["cancelled", "log 499"]
        assert worker.context.plugins.failures == {}
        gc.collect()
        assert sum(isinstance(each, Exchange) for each in gc.get_objects()) == before
