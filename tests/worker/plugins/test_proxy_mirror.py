"""proxy-mirror (plugins.md section 6)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins import proxy_mirror
from worker.plugins.proxy_mirror import time_limit
from worker.plugins.testing import Message, Outcome, PluginKit, UpstreamRequest

ANSWER = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad"


class Mirror:
    """A server that notes what it gets."""

    def __init__(self, kit: PluginKit) -> None:
        self.received: list[Message] = []
        self._server = kit.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._kit = kit

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
                length = int(Message(head, b"").header("content-length") or 0)
                self.received.append(Message(head, await reader.readexactly(length)))
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def wait(self, count: int = 1) -> list[Message]:
        """Return what has come, once it is so much."""

        async def until() -> None:
            while len(self.received) < count:  # noqa: ASYNC110 - it is a list
                await asyncio.sleep(0.001)

        self._kit.run(until())
        self._kit.run(asyncio.sleep(0.02))
        return self.received


def mirrored(
    config: dict[str, Any],
    ask: Callable[[PluginKit], Any] | None = None,
    count: int = 1,
    plugins: dict[str, Any] | None = None,
    nodes: Any = None,
) -> tuple[Any, list[Message]]:
    """Return what a client gets, and what the mirror."""
    with PluginKit() as kit:
        mirror = Mirror(kit)
        upstream = {"nodes": nodes or {"127.0.0.1:1980": 1}}
        config = {"host": f"http://127.0.0.1:{mirror.port}", **config}
        kit.put(
            "routes/kit", {"uri": "/*", "upstream": upstream, "plugins": {"proxy-mirror": config, **(plugins or {})}}
        )
        answer = (ask or (lambda kit: kit.request(target="/a%20b?x=1")))(kit)
        return answer, mirror.wait(count)


@pytest.mark.parametrize(
    ("config", "target"),
    [
        ({}, "/a%20b?x=1"),
        ({"path": "/m"}, "/m?x=1"),
        ({"path": "/m", "path_concat_mode": "prefix"}, "/m/a%20b?x=1"),
    ],
)
def test_a_copy_is_sent_and_its_answer_is_nobodys(config: dict[str, str], target: str) -> None:
    answer, (copy,) = mirrored(config)
    assert (answer.status, answer.body) == (200, b"ok")
    assert copy.line == f"GET {target} HTTP/1.1"


def test_a_copy_is_what_goes_upstream() -> None:
    rewriting = {"uri": "/new", "method": "PUT", "host": "new.com", "headers": {"set": {"X-A": "b"}, "remove": ["X-B"]}}
    fields = {"X-B": "c", "X-C": "d", "Connection": "x-hop", "X-Hop": "e"}
    answer, (copy,) = mirrored(
        {}, lambda kit: kit.request("POST", "/old?x=1", fields, b"body"), 1, {"proxy-rewrite": rewriting}
    )
    upstream: UpstreamRequest = answer.upstream
    assert (copy.line, copy.body) == (upstream.line, b"body")
    assert sorted(copy.fields) == sorted(upstream.fields)
    assert copy.header("host") == "new.com"


def test_a_body_that_comes_in_chunks_or_late() -> None:
    body = b"x" * 100_000
    chunked = b"186a0\r\n%b\r\n0\r\n\r\n" % body
    fields = {"Transfer-Encoding": "chunked"}
    answer, (copy,) = mirrored({}, lambda kit: kit.request("POST", "/", fields, chunked))
    assert (answer.status, answer.upstream.body, copy.body) == (200, body, body)
    assert copy.header("transfer-encoding") is None


def test_a_body_that_is_too_large_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_mirror, "LARGEST_BODY", 50_000)
    answer, copies = mirrored({}, lambda kit: kit.request("POST", "/", {}, b"x" * 50_001), 0)
    assert (answer.status, copies) == (200, [])


def test_a_copy_is_sent_once_however_often_is_tried() -> None:
    first, second = ({"host": "127.0.0.1", "port": port, "weight": 1} for port in (1, 1980))
    answer, copies = mirrored({}, nodes=[{**first, "priority": 1}, second])
    assert (answer.status, answer.header("x-apisix-upstream-status"), len(copies)) == (200, None, 1)


def test_a_share_of_the_requests() -> None:
    def ask(kit: PluginKit) -> list[Outcome]:
        return kit.requests([("GET", "/", {}, b"")] * 200)

    answers, copies = mirrored({"sample_ratio": 0.5}, ask)
    assert all(answer.status == 200 for answer in answers)
    assert 50 <= len(copies) <= 150


def test_a_mirror_that_is_not_there() -> None:
    with PluginKit({"proxy-mirror": {"host": "http://127.0.0.1:1"}}) as kit:
        assert kit.request().status == 200
        kit.run(asyncio.sleep(0.05))
        assert kit.request().status == 200
    with PluginKit({"proxy-mirror": {"host": "grpc://127.0.0.1:1"}}) as kit:
        assert kit.request().status == 200


def test_there_are_not_too_many_copies_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_mirror, "MOST_COPIES", 0)
    answer, copies = mirrored({}, count=0)
    assert (answer.status, copies) == (200, [])


def test_copies_under_way_do_not_take_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_mirror, "MOST_BYTES", 5)
    bodies = [b"123456", b"12345", b"1234"]
    _, copies = mirrored({}, lambda kit: [kit.request("POST", "/", {}, body) for body in bodies])
    assert copies[0].body == b"12345"


@pytest.mark.parametrize(
    ("attribute", "seconds"),
    [(None, 60), ({}, 60), ({"connect": "1s", "read": "2s", "send": "500ms"}, 2),
     ({"connect": 0.5, "read": 0.5, "send": 0.5}, 0.5), ({"connect": "x"}, 60)],
)  # fmt: skip
def test_how_long_a_copy_may_take(attribute: Any, seconds: float) -> None:
    assert time_limit(attribute) == seconds


def test_without_an_http_client_requests_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with PluginKit({"proxy-mirror": {"host": "http://a"}}) as kit:
        assert kit.request().status == 503


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, ": "),
        ({"host": "a.com"}, ".host: "),
        ({"host": "ftp://a.com"}, ".host: "),
        ({"host": "http://a.com/path"}, ".host: "),
        ({"host": "http://a.com:x"}, ".host: "),
        ({"host": "http://a", "path": "x"}, ".path: "),
        ({"host": "http://a", "path": "/x?y"}, ".path: "),
        ({"host": "http://a", "path": "/x y"}, ".path: "),
        ({"host": "http://a", "path_concat_mode": "suffix"}, ".path_concat_mode: "),
        ({"host": "http://a", "sample_ratio": 0}, ".sample_ratio: "),
        ({"host": "http://a", "sample_ratio": 1.1}, ".sample_ratio: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert fault in complaint("proxy-mirror", config)


@pytest.mark.parametrize("host", ["https://a.com", "http://[::1]:8080", "grpcs://a:1"])
def test_hosts(host: str) -> None:
    assert complaint("proxy-mirror", {"host": host}) == ""
