"""Answers and what plugins make of them: statuses without a body, lengths, fields that must not be set, failures."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from worker.edited_request import edit
from worker.exchange import Exchange
from worker.http.serve import upstream_of
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin
from worker.plugins.response_head import ResponseHead
from worker.plugins.testing import PluginKit, UpstreamRequest
from worker.upstream.peer import Peer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
TWO: list[tuple[str, str, dict[str, str], bytes]] = [("GET", "/", {}, b""), ("GET", "/", {}, b"")]


class ShapeConfig(msgspec.Struct):
    """What is made of an answer."""

    status: int = 0
    add: str = ""
    field: tuple[str, str] | None = None
    fails: str = ""
    answer: int = 0
    answer_field: tuple[str, str] | None = None


class Shaping(Plugin[ShapeConfig]):
    """Changes status, fields and body of answers, or fails over it."""

    name = "shaping"
    priority = 10
    Config = ShapeConfig
    heads: list[ResponseHead] = []  # noqa: RUF012 - emptied by each test

    def access(self, exchange: Exchange) -> Answer | None:
        config = self.config
        if not config.answer:
            return None
        fields = [(config.answer_field[0].encode(), config.answer_field[1].encode())] if config.answer_field else []
        return Answer(config.answer, b"made", fields)

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        self.heads.append(head)
        if self.config.fails == "head":
            raise RuntimeError("on purpose")
        if self.config.status:
            head.status = self.config.status
        if self.config.field is not None:
            head.fields.set(self.config.field[0].encode(), self.config.field[1].encode())
        if self.config.add:
            head.body_changes()

    def body_filter(self, exchange: Exchange, data: bytes, is_last: bool) -> bytes:
        if self.config.fails == "last" and is_last:
            raise RuntimeError("on purpose")
        if self.config.fails == "text":
            return data.decode()  # type: ignore[return-value]  # that is the fault
        if self.config.fails == "longer":
            return data + b"!" if data else b""
        return data + self.config.add.encode() if is_last else data


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    Shaping.heads.clear()


def kit(config: dict[str, Any], answer: bytes | Callable[[UpstreamRequest], bytes] = OK, **more: Any) -> PluginKit:
    worker = PluginKit({"shaping": config}, extra=(Shaping, *more.pop("extra", ())), **more)
    worker.upstream_answers = answer
    return worker


@pytest.mark.parametrize("answer", [OK, CHUNKED])
@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("add", ["", "!"])
def test_an_answer_that_becomes_one_without_a_body_has_none(answer: bytes, status: int, add: str) -> None:
    with kit({"status": status, "add": add}, answer) as worker:
        for outcome in worker.requests(TWO):  # a byte too much would begin the next answer
            assert (outcome.status, outcome.body) == (status, b"")
            assert outcome.header("content-length") is None
            assert outcome.header("transfer-encoding") is None


@pytest.mark.parametrize("status", [204, 304])
def test_the_same_for_an_answer_of_the_gateway(status: int) -> None:
    with kit({"answer": 403, "status": status}) as worker:
        for outcome in worker.requests(TWO):
            assert (outcome.status, outcome.body, outcome.header("content-length")) == (status, b"", None)
    with kit({"answer": status}) as worker:
        for outcome in worker.requests(TWO):
            assert (outcome.status, outcome.body, outcome.header("content-length")) == (status, b"", None)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 204 No Content\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"]
)
@pytest.mark.parametrize("add", ["", "!"])
def test_an_answer_without_a_body_may_become_one_with(answer: bytes, add: str) -> None:
    with kit({"status": 200, "add": add}, answer) as worker:
        for outcome in worker.requests(TWO):
            assert (outcome.status, outcome.body) == (200, add.encode())
            assert outcome.header("content-length") == str(len(add))
    with kit({"answer": 204, "status": 200, "add": add}) as worker:
        assert worker.request().header("content-length") == str(4 + len(add))


def test_head_and_304_tell_the_length_of_what_does_not_come() -> None:
    with kit({"field": ["X-A", "1"]}) as worker:
        outcome = worker.request("HEAD")
        assert (outcome.status, outcome.body, outcome.headers("content-length")) == (200, b"", ["5"])
        assert Shaping.heads[-1].content_length == 5
        assert b"Content-Length" not in Shaping.heads[-1].fields
        worker.upstream_answers = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n"
        assert worker.request().headers("content-length") == ["99"]
    with kit({"add": "!"}) as worker:
        assert worker.request("HEAD").header("content-length") is None
    with kit({"add": "!", "answer": 403}) as worker:
        assert worker.request("HEAD").header("content-length") is None
    with kit({"answer": 403}) as worker:
        assert worker.request("HEAD").header("content-length") == "4"


class Marking(Plugin[ShapeConfig]):
    """Sees heads alone."""

    name = "marking"
    Config = ShapeConfig

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        head.fields.set(b"X-Mark", b"m")
        if self.config.status:
            head.status = self.config.status
        if self.config.add:
            head.body_changes()


@pytest.mark.parametrize("answer", [OK, CHUNKED, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
@pytest.mark.parametrize("changes", ["", "length"])
@pytest.mark.parametrize("status", [0, 404, 204, 304])
def test_who_sees_the_head_alone_leaves_the_body_as_it_is(answer: bytes, changes: str, status: int) -> None:
    with PluginKit({"marking": {"status": status, "add": changes}}, extra=(Marking,)) as kit:
        kit.upstream_answers = answer
        for outcome in kit.requests(TWO):
            is_empty = status in (204, 304) or answer.endswith(b" 0\r\n\r\n")
            assert (outcome.status, outcome.body) == (status or 200, b"" if is_empty else b"hello")
            assert outcome.header("x-mark") == "m"
            if answer == OK:
                assert outcome.header("content-length") == {204: None, 304: None}.get(status, "5")


@pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Connection", "Upgrade"])
def test_nobody_frames_an_answer_but_the_gateway(name: str) -> None:
    with kit({"field": [name, "7"]}) as worker:
        assert worker.request().status == 500
        assert worker.context.plugins.failures["shaping"] == 2  # the gateway's own answer goes through it, too
    with kit({"answer": 403, "answer_field": [name, "7"]}) as worker:
        outcome = worker.request()
        assert (outcome.status, outcome.body) == (403, b"made")
        assert outcome.headers("content-length") == ["4"]


@pytest.mark.parametrize("value", ["a\r\nX-Split: 1", "a\nX-Split: 1", "a\rX-Split: 1", "a\0b"])
def test_no_value_splits_an_answer(value: str) -> None:
    for config in ({"field": ["X-A", value]}, {"answer": 403, "answer_field": ["X-A", value]}):
        with kit(config) as worker:
            outcome = worker.request()
            assert outcome.status == 500
            assert outcome.header("x-split") is None


@pytest.mark.parametrize("status", [100, 101, 199, 600, 1000])
def test_only_the_status_of_an_answer_may_be_one(status: int) -> None:
    with kit({"status": status}) as worker:
        assert [outcome.status for outcome in worker.requests(TWO)] == [500, 500]
    if status != 600:
        with kit({"answer": status}) as worker:
            assert [outcome.status for outcome in worker.requests(TWO)] == [500, 500]


def sent_for(worker: PluginKit) -> bytes:
    """Send a request, and return all that comes of it once the connection is closed."""

    async def ask() -> bytes:
        connection = worker.connect()
        client = connection.transport
        connection.data_received(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n")
        while not client.is_closing():  # noqa: ASYNC110 - a transport has no event
            await asyncio.sleep(0.001)
        connection.connection_lost(None)
        data: bytes = client._data  # type: ignore[attr-defined]
        return data

    answer: bytes = worker.run(ask())
    return answer


@pytest.mark.parametrize("fails", ["last", "text", "longer"])
@pytest.mark.parametrize("answer", [OK, CHUNKED, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"])
def test_a_body_filter_that_fails_cuts_the_answer_off(fails: str, answer: bytes) -> None:
    if fails == "longer" and answer is not OK:
        return  # nothing is said of its length, so it may be
    with kit({"fails": fails}, answer) as worker:
        assert not sent_for(worker).endswith((b"hello", b"0\r\n\r\n")) or fails == "last"
        assert b"0\r\n\r\n" not in sent_for(worker)


def test_a_body_filter_that_fails_is_passed_over_unless_it_changes_the_length() -> None:
    settings = {"plugins": {"on_failure": "bypass"}}
    with kit({"fails": "text"}, settings=settings) as worker:
        assert worker.request().body == b"hello"
    with kit({"fails": "last", "add": "!"}, settings=settings) as worker:
        assert not sent_for(worker).endswith(b"0\r\n\r\n")


def test_an_answer_that_plugins_have_seen_is_not_asked_for_again() -> None:
    def half(request: UpstreamRequest) -> bytes:
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n"

    upstream = {"nodes": {"127.0.0.1:1980": 1}, "retries": 3}
    with kit({"add": "!"}, half, route={"upstream": upstream}) as worker:
        outcome = worker.request()
        assert outcome.status == 502
        assert len(worker.received) == 1
        assert outcome.body.endswith(b"!")
        assert len(Shaping.heads) == 2  # the upstream's and the gateway's


def test_health_counts_what_the_peer_has_said() -> None:
    seen: list[int] = []

    class Passive:
        def answered(self, peer: Peer, status: int) -> None:
            seen.append(status)

    class Watching(Plugin[ShapeConfig]):
        name = "watching"

        def before_proxy(self, exchange: Exchange) -> None:
            upstream_of(exchange.route).passive = Passive()  # type: ignore[arg-type,assignment]  # there is a route

    error = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    plugins = {"shaping": {"status": 200}, "watching": {}}
    with PluginKit(plugins, extra=(Shaping, Watching)) as worker:
        worker.upstream_answers = error
        assert worker.request().status == 200
        assert seen == [500]


class Sending(Plugin[ShapeConfig]):
    """Puts what must not be sent upstream into a request."""

    name = "sending"
    Config = ShapeConfig

    def rewrite(self, exchange: Exchange) -> None:
        if self.config.fails == "body":
            edit(exchange).set_body(exchange, b"other")
        elif self.config.fails:
            edit(exchange).upstream_target = self.config.fails.encode()

    def before_proxy(self, exchange: Exchange) -> None:
        if self.config.add:
            edit(exchange).set_body(exchange, self.config.add.encode())


@pytest.mark.parametrize("target", ["/ HTTP/1.1\r\nX-Split: 1\r\n\r\nGET /", "/a b", "", "a", "/\0"])
def test_no_target_splits_a_request(target: str) -> None:
    with PluginKit({"sending": {"fails": target or " "}}, extra=(Sending,)) as worker:
        assert worker.request().status == 500
        assert worker.received == []


def test_a_body_is_only_replaced_when_it_is_there() -> None:
    with PluginKit({"sending": {"fails": "body"}}, extra=(Sending,)) as worker:
        assert worker.request("POST", "/", body=b"abc").upstream.body == b"other"  # type: ignore[union-attr]
        connection = worker.connect()
        connection.data_received(b"POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 20000\r\n\r\nabc")
        assert connection.transport._data.startswith(b"HTTP/1.1 500 ")  # type: ignore[attr-defined]
        assert worker.context.plugins.failures == {"sending": 1}


def test_what_before_proxy_makes_of_a_body_is_sent() -> None:
    with PluginKit({"sending": {"add": "another body"}}, extra=(Sending,)) as worker:
        upstream = worker.request("POST", "/", body=b"abc").upstream
        assert upstream is not None
        assert (upstream.body, upstream.header("content-length")) == (b"another body", "12")


def test_a_filtered_answer_that_comes_whole_is_sent_in_one_piece() -> None:
    with kit({"field": ["X-A", "1"]}) as worker:

        async def ask() -> list[bytes]:
            connection = worker.connect()
            writes: list[bytes] = []
            connection.transport.write = writes.append  # type: ignore[assignment,method-assign]
            connection.data_received(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n")
            while not writes:  # noqa: ASYNC110 - a transport has no event
                await asyncio.sleep(0.001)
            return writes

        (whole,) = worker.run(ask())
        assert whole.endswith(b"\r\n\r\nhello")
        assert b"\r\nX-A: 1\r\n" in whole


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
def test_who_is_refused_need_not_send_the_body_and_is_asked_for_nothing_more(expects: bytes) -> None:
    with kit({"answer": 403}) as worker:
        connection = worker.connect()
        head = b"POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 20000\r\n%b\r\n" % expects
        connection.data_received(head)
        sent: bytes = connection.transport._data  # type: ignore[attr-defined]
        assert sent.startswith(b"HTTP/1.1 403 ")
        assert b"\r\nConnection: close\r\n" in sent
        connection.data_received(b"GET /smuggled HTTP/1.1\r\nHost: a.com\r\n\r\n")
        assert connection.transport._data == sent  # type: ignore[attr-defined]
        assert worker.received == []
