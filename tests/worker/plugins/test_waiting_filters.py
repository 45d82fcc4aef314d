"""Body filters that have to be waited for, and those that come last."""

import asyncio
from typing import Any

import msgspec
import pytest

from worker.exchange import Exchange
from worker.plugins.answer import Answer
from worker.plugins.base import NoConfig, Plugin
from worker.plugins.response_head import ResponseHead
from worker.plugins.testing import PluginKit

CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"


class SlowConfig(msgspec.Struct):
    """What goes wrong."""

    fails: bool = False


class Slow(Plugin[SlowConfig]):
    """Takes its time for each piece."""

    name = "slow"
    priority = 5
    Config = SlowConfig

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        head.body_changes()

    def body_filter(self, exchange: Exchange, data: bytes, is_last: bool) -> Any:
        return self._work(data, is_last)

    async def _work(self, data: bytes, is_last: bool) -> bytes:
        await asyncio.sleep(0.002)
        if self.config.fails and is_last:
            raise RuntimeError("on purpose")
        return data.upper() + (b"!" if is_last else b"")


class Marking(Plugin[NoConfig]):
    """Marks each piece; comes after all others whatever its priority."""

    name = "marking"
    priority = 99
    comes_last = True

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        head.fields.set(b"X-Length-Changes", b"%d" % head.length_changes)

    def body_filter(self, exchange: Exchange, data: bytes, is_last: bool) -> bytes:
        return b"<%b>" % data if data else b""


class Answering(Plugin[NoConfig]):
    """Answers."""

    name = "answering"

    def access(self, exchange: Exchange) -> Answer:
        return Answer(200, b"abc")


EXTRA = (Slow, Marking, Answering)


@pytest.mark.parametrize(
    ("upstream", "body"), [(CHUNKS, b"<ABC><!>"), (WHOLE, b"<ABC><!>"), (UNTIL_CLOSE, b"<ABC><!>")]
)
def test_pieces_come_in_their_order(upstream: bytes, body: bytes) -> None:
    with PluginKit({"slow": {}, "marking": {}}, extra=EXTRA) as kit:
        kit.upstream_answers = upstream
        answers = kit.requests([("GET", "/", {}, b"")] * 3)
        assert [(answer.status, answer.body, answer.header("x-length-changes")) for answer in answers] == [
            (200, body, "1")
        ] * 3
        assert len(kit.context.upstream_connections) == (upstream is not UNTIL_CLOSE)


def test_an_answer_of_the_gateways_own() -> None:
    with PluginKit({"slow": {}, "marking": {}, "answering": {}}, extra=EXTRA) as kit:
        answers = kit.requests([("GET", "/", {}, b"")] * 2)
        assert [(answer.status, answer.body, answer.header("content-length")) for answer in answers] == [
            (200, b"<ABC><!>", "8")
        ] * 2


def test_a_filter_that_fails_while_it_is_waited_for() -> None:
    with PluginKit({"slow": {"fails": True}, "answering": {}}, extra=EXTRA) as kit:
        assert kit.request().status == 500
    with PluginKit({"slow": {}}, route={"upstream": {"nodes": {}}}, extra=EXTRA) as kit:
        answer = kit.request()
        assert (answer.status, answer.body[-1:]) == (503, b"!")
    with PluginKit({"slow": {"fails": True}}, extra=EXTRA) as kit:
        kit.upstream_answers = WHOLE
        with pytest.raises(AssertionError, match="closed before"):
            kit.request()


def test_a_peer_that_says_more_while_a_filter_is_waited_for() -> None:
    with PluginKit({"slow": {}}, extra=EXTRA) as kit:
        kit.upstream_answers = WHOLE + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
        answers = kit.requests([("GET", "/", {}, b"")] * 2)
        assert [answer.body for answer in answers] == [b"ABC!", b"ABC!"]
        assert kit.context.upstream_connections == set()


def test_a_client_that_goes_while_a_filter_is_waited_for() -> None:
    async def go() -> None:
        client = kit.connect()
        client.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(kit.received) == 1
        client.connection_lost(None)
        await asyncio.sleep(0.02)

    with PluginKit({"slow": {}}, extra=EXTRA) as kit:
        kit.upstream_answers = WHOLE
        kit.run(go())
        assert kit.context.upstream_connections == set()
        assert kit.request().body == b"ABC!"
