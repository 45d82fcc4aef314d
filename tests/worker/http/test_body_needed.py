"""A request that cannot be matched before its body has been read, through real sockets in one event loop."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from config_sync.cache import ConfigStore
from config_sync.schema import Timeout
from config_sync.settings import Settings
from worker.context import WorkerContext
from worker.errors import BodyNeeded
from worker.exchange import Exchange
from worker.http.http1_server import Http1Server
from worker.http.relay import RequestBody
from worker.routing.pattern import Pattern
from worker.routing.route import Route
from worker.upstream.balancers.single import Single
from worker.upstream.peer import Peer, Upstream, UpstreamCell
from worker.upstream.pool import PoolKey

LIMIT = 200_000


@contextlib.asynccontextmanager
async def gateway(directory: Path, at_first: int = LIMIT) -> AsyncIterator[tuple[int, list[bytes], list[bytes]]]:
    """Serve; yields the port, the bodies that the matcher saw, and what the upstream got.

    Of a body of more bytes than it wants to see ``at_first`` the matcher asks for ``LIMIT``.
    """
    loop = asyncio.get_running_loop()
    got: list[bytes] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"chunked" in head:
            got.append(await reader.readuntil(b"0\r\n\r\n"))
        else:
            got.append(await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r\n")[0])))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    node = await asyncio.start_server(upstream, "127.0.0.1", 0, limit=1 << 24)
    settings = Settings(runtime_dir=str(directory), access_log=False, client_body_buffer_size=65_536)
    context = WorkerContext(settings, loop, ConfigStore())
    pool = context.pools.use(PoolKey("http", "127.0.0.1", node.sockets[0].getsockname()[1], 1, 1, 1))
    peer = Peer("127.0.0.1", pool.key.port, 1, 0, pool)
    compiled = Upstream("u", [peer], Single(peer), None, 0, Timeout(1, 1, 1), "pass", None)
    route = Route("1", (Pattern("/*"),), (), frozenset(), 0, upstream=UpstreamCell("u", compiled))
    seen: list[bytes] = []

    class Router:
        version = 0

        def match(self, *_: object) -> Route:
            (connection,) = context.downstream_connections
            exchange = connection._exchange
            assert isinstance(exchange, Exchange)
            if exchange.buffered_body is None:
                raise BodyNeeded(at_first)
            if not exchange.buffered_body and at_first < LIMIT:
                raise BodyNeeded(LIMIT)
            seen.append(exchange.buffered_body)
            return route

    context.router = Router()  # type: ignore[assignment]
    server = await loop.create_server(lambda: Http1Server(context), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], seen, got
    finally:
        server.close()
        node.close()
        context.close()


async def post(port: int, *pieces: bytes) -> bytes:
    """Send a request in pieces, and return the answer up to the end of its head and two bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    answer = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(2)
    writer.close()
    return answer


def head(fields: str) -> bytes:
    return f"POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n".encode()


@pytest.mark.parametrize("size", [1, 1_000, 65_536, 65_537, 150_000, LIMIT, LIMIT + 1, 3_000_000])
def test_bodies_of_known_length(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        body = bytes(range(250)) * (size // 250) + b"x" * (size % 250)
        async with gateway(tmp_path) as (port, seen, got):
            pieces = [body[at : at + 40_000] for at in range(0, size, 40_000)]
            assert (await post(port, head(f"Content-Length: {size}"), *pieces)).endswith(b"ok")
            assert seen == [body if size <= LIMIT else b""]
            assert got == [body]

    asyncio.run(scenario())


@pytest.mark.parametrize(("size", "sees"), [(10, True), (1_000, True), (LIMIT, True), (LIMIT + 1, False)])
def test_who_wants_to_see_more_is_shown_more(tmp_path: Path, size: int, sees: bool) -> None:
    async def scenario() -> None:
        body = b"x" * size
        async with gateway(tmp_path, 100) as (port, seen, got):
            answer = await post(port, head(f"Content-Length: {size}"), body)
            assert (answer.startswith(b"HTTP/1.1 200 "), seen, got) == (sees, [body] * sees, [body] * sees)

    asyncio.run(scenario())


def test_a_request_with_a_body_leaves_nothing_for_the_collector(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as (port, _, got):
            gc.collect()
            gc.disable()
            try:
                assert (await post(port, head("Content-Length: 5"), b"hello")).endswith(b"ok")
                assert got == [b"hello"]
                await asyncio.sleep(0)
                assert [left for left in gc.get_objects() if isinstance(left, RequestBody)] == []
            finally:
                gc.enable()

    asyncio.run(scenario())


def test_chunked_and_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as (port, seen, got):
            pieces = (b"5\r\nhel", b"lo\r\n", b"6\r\n world\r\n", b"0\r\n\r\n")
            assert (await post(port, head("Transfer-Encoding: chunked"), *pieces)).endswith(b"ok")
            assert seen == [b"hello world"]
            assert got == [b"b\r\nhello world\r\n0\r\n\r\n"]

    asyncio.run(scenario())


def test_a_client_that_waits_to_be_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as (port, seen, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head("Content-Length: 2\r\nExpect: 100-continue"))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"ab" + head("Content-Length: 2") + b"cd")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")
            assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")
            writer.close()
            assert seen == [b"ab", b"cd"]

    asyncio.run(scenario())


def test_a_body_that_cannot_be_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "taken").write_text("a file, no directory")
        async with gateway(tmp_path / "taken") as (port, seen, _):
            answer = await post(port, head("Content-Length: 100000"), *[b"x" * 10_000] * 10)
            assert answer.startswith(b"HTTP/1.1 500 ")
            assert not seen

    asyncio.run(scenario())
