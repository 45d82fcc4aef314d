"""Connections to the control interface, over real sockets."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from worker.api import http
from worker.api.http import ControlConnection
from worker.api.messages import Answer, Outcome, Pending, Portions, Request, failure
from worker.api.turns import Turns

Handler = Callable[[Request], Outcome]


def echo(request: Request) -> Outcome:
    return Answer(200, f"{request.method} {request.path}".encode())


class Server:
    """Connections that are all answered by one handler."""

    def __init__(self, handler: Handler) -> None:
        self.draining = False
        self.connections: set[ControlConnection] = set()
        self.limit = 2
        self.asked: list[Request] = []
        self._handler = handler
        self.port = 0
        self.turns: Turns

    def admit(self, connection: ControlConnection) -> bool:
        if len(self.connections) >= self.limit:
            return False
        self.connections.add(connection)
        return True

    def dismiss(self, connection: ControlConnection) -> None:
        self.connections.discard(connection)

    def handle(self, request: Request) -> Outcome:
        self.asked.append(request)
        return self._handler(request)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Server"]:
        loop = asyncio.get_running_loop()
        self.turns = Turns(loop)
        listening = await loop.create_server(lambda: ControlConnection(self, loop), "127.0.0.1", 0)
        self.port = listening.sockets[0].getsockname()[1]
        yield self
        listening.close()
        for connection in list(self.connections):
            connection.abort()
        await until(lambda: not self.connections)

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        yield Client(reader, writer)
        writer.close()


class Client:
    """A client that reads answers with a Content-Length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, data: bytes) -> tuple[bytes, bytes]:
        self.writer.write(data)
        return await self.answer()

    async def answer(self) -> tuple[bytes, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
        return head, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        return await self.reader.read()


async def until(holds: Callable[[], object]) -> None:
    while not holds():  # noqa: ASYNC110 - the condition is another's state
        await asyncio.sleep(0)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def get(path: str = "/a", fields: str = "Host: a\r\n") -> bytes:
    return f"GET {path} HTTP/1.1\r\n{fields}\r\n".encode()


def test_requests_follow_each_other_on_a_connection() -> None:
    async def test() -> None:
        async with Server(echo).running() as server, server.client() as client:
            for path in ("/a", "/b"):
                head, body = await client.ask(get(path))
                assert head.startswith(b"HTTP/1.1 200 OK\r\n")
                assert b"Content-Type: application/json\r\n" in head
                assert body == b"GET %b" % path.encode()
            head, _ = await client.ask(get("/c", "Host: a\r\nConnection: close\r\n"))
            assert b"Connection: close\r\n" in head
            assert await client.rest() == b""

    run(test())


def test_a_request_may_come_byte_by_byte_and_with_a_body() -> None:
    async def test() -> None:
        async with Server(echo).running() as server, server.client() as client:
            data = b"POST /a%20b?c=d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /"
            for at in range(len(data)):
                client.writer.write(data[at : at + 1])
                await client.writer.drain()
                await asyncio.sleep(0)
            assert (await client.answer())[1] == b"POST /a b"
            assert (server.asked[0].query, server.asked[0].hosts) == ("c=d", ("a",))

    run(test())


def test_requests_sent_ahead_are_answered_in_order() -> None:
    async def test() -> None:
        async with Server(echo).running() as server, server.client() as client:
            client.writer.write(b"".join(get(f"/{at}") for at in range(100)))
            for at in range(100):
                assert (await client.answer())[1] == b"GET /%d" % at

    run(test())


def test_head_has_no_body() -> None:
    async def test() -> None:
        async with Server(echo).running() as server, server.client() as client:
            client.writer.write(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n")
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b"Content-Length: 7\r\n" in head
            assert (await client.ask(get("/b")))[1] == b"GET /b"

    run(test())


def test_http_10_closes_unless_asked_to_stay() -> None:
    async def test() -> None:
        async with Server(echo).running() as server:
            async with server.client() as client:
                client.writer.write(b"GET /a HTTP/1.0\r\n\r\n")
                assert (await client.rest()).endswith(b"\r\n\r\nGET /a")
            async with server.client() as client:
                head, _ = await client.ask(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                assert b"Connection: keep-alive\r\n" in head
                assert (await client.ask(b"GET /b HTTP/1.0\r\n\r\n"))[1] == b"GET /b"

    run(test())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 2000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"a" * 100_000, b"413"),
    ],
)
def test_what_is_not_accepted_is_told_and_the_connection_closed(data: bytes, status: bytes) -> None:
    async def test() -> None:
        async with Server(echo).running() as server, server.client() as client:
            client.writer.write(data)
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 " + status)
            assert b"Connection: close\r\n" in answer
            assert answer.count(b"HTTP/1.1") == 1

    run(test())


def test_good_requests_before_a_bad_one_are_answered() -> None:
    async def test() -> None:
        async with Server(echo).running() as server, server.client() as client:
            assert (await client.ask(get("/a") + get("/b") + b"bad\r\n\r\n"))[1] == b"GET /a"
            assert (await client.answer())[1] == b"GET /b"
            assert (await client.answer())[0].startswith(b"HTTP/1.1 400")

    run(test())


def test_an_upgrade_is_answered_as_a_plain_request() -> None:
    async def test() -> None:
        async with Server(echo).running() as server, server.client() as client:
            head, body = await client.ask(get("/a", "Host: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"))
            assert (head[:12], body) == (b"HTTP/1.1 200", b"GET /a")
            assert await client.rest() == b""

    run(test())


def test_a_slow_request_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "RECEIVE_TIMEOUT", 0.05)

    async def test() -> None:
        async with Server(echo).running() as server, server.client() as client:
            client.writer.write(b"GET / HTTP/1.1\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 408")
        async with Server(echo).running() as server, server.client() as client:
            assert await client.rest() == b""

    run(test())


def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE_TIMEOUT", 0.05)

    async def test() -> None:
        async with Server(echo).running() as server, server.client() as client:
            await client.ask(get("/a"))
            assert await client.rest() == b""

    run(test())


def test_there_is_a_limit_of_connections() -> None:
    async def test() -> None:
        async with Server(echo).running() as server, server.client() as one, server.client() as two:
            await one.ask(get("/a"))
            await two.ask(get("/a"))
            async with server.client() as three:
                assert (await three.rest()).startswith(b"HTTP/1.1 503")
            assert (await one.ask(get("/b")))[1] == b"GET /b"

    run(test())


def test_what_must_happen_first_is_looked_for_again_and_again() -> None:
    looks = []

    def poll(now: float) -> Answer | None:
        looks.append(now)
        return failure(504, "late") if len(looks) == 4 else None

    async def test() -> None:
        async with Server(lambda _: Pending(poll)).running() as server, server.client() as client:
            assert (await client.ask(get("/a")))[0].startswith(b"HTTP/1.1 504")
            assert looks == sorted(looks)
            # A client that has closed its sending side still gets its answer.
            looks.clear()
            client.writer.write(get("/b"))
            client.writer.write_eof()
            assert (await client.rest()).startswith(b"HTTP/1.1 504")

    run(test())


def test_a_client_that_goes_away_is_not_waited_for() -> None:
    async def test() -> None:
        async with Server(lambda _: Pending(lambda _: None)).running() as server, server.client() as client:
            client.writer.write(get("/a"))
            await until(lambda: server.asked)
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # as a reset
            client.writer.close()
            await until(lambda: not server.connections)

    run(test())


def test_portions_are_chunks_and_for_http_10_the_connection_ends_them() -> None:
    def portions(_: Request) -> Outcome:
        return Portions(200, iter([b"one", b"", b"two"]))

    async def test() -> None:
        async with Server(portions).running() as server:
            async with server.client() as client:
                client.writer.write(get("/a", "Host: a\r\nConnection: close\r\n"))
                head, _, body = (await client.rest()).partition(b"\r\n\r\n")
                assert b"Transfer-Encoding: chunked" in head
                assert body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
            async with server.client() as client:
                client.writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                head, _, body = (await client.rest()).partition(b"\r\n\r\n")
                assert b"Connection: close" in head
                assert body == b"onetwo"

    run(test())


def test_no_more_is_made_than_the_client_takes() -> None:
    made = []
    total = 50

    def pieces() -> Iterator[bytes]:
        for at in range(total):
            made.append(at)
            yield b"x" * 1_000_000

    async def test() -> None:
        handler: Handler = lambda _: Portions(200, pieces())  # noqa: E731
        async with Server(handler).running() as server, server.client() as client:
            client.writer.write(get("/a", "Host: a\r\nConnection: close\r\n"))
            await client.reader.readuntil(b"\r\n\r\n")
            paused = -1
            while paused != len(made):  # until nothing is made for a while
                paused = len(made)
                await asyncio.sleep(0.05)
            assert len(made) < total / 2
            assert len(await client.rest()) > total * 1_000_000
            assert len(made) == total

    run(test())


def test_a_client_that_takes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SEND_TIMEOUT", 0.05)

    async def test() -> None:
        handler: Handler = lambda _: Portions(200, (b"x" * 1_000_000 for _ in range(200)))  # noqa: E731
        async with Server(handler).running() as server, server.client() as client:
            client.writer.write(get("/a"))
            await until(lambda: server.asked)
            while server.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(test())


def test_an_answer_that_breaks_off_is_seen_to() -> None:
    def pieces() -> Iterator[bytes]:
        yield b"one"
        raise RuntimeError("broken")

    async def test() -> None:
        async with Server(lambda _: Portions(200, pieces())).running() as server, server.client() as client:
            client.writer.write(get("/a"))
            assert (await client.rest()).endswith(b"3\r\none\r\n")

    run(test())


def test_a_server_that_drains_closes_with_the_next_answer_or_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "DRAIN_IDLE_TIME", 0.1)

    async def test() -> None:
        async with Server(echo).running() as server, server.client() as one, server.client() as two:
            await one.ask(get("/a"))
            await two.ask(get("/a"))
            server.draining = True
            for connection in server.connections:
                connection.drain()
            head, body = await one.ask(get("/b"))
            assert b"Connection: close\r\n" in head
            assert body == b"GET /b"
            assert await one.rest() == b""
            assert await two.rest() == b""

    run(test())
