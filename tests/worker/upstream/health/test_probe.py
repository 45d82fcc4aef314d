"""What a probe makes of servers that answer as they like."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from config_sync import schema
from worker.errors import ConnectFailed
from worker.upstream.health.checker import Checker, Target
from worker.upstream.health.machine import Report
from worker.upstream.health.probe import TlsContexts, probe

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


def checker(**active: Any) -> Checker:
    checks = msgspec.convert({"active": {"timeout": 2, **active}}, schema.HealthChecks)
    return Checker("upstreams/1", schema.Upstream(), checks)


@asynccontextmanager
async def serving(talk: Talk, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve on a port until all connections have been closed."""
    tasks = []

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        try:
            await talk(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(accepted, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
    for task in tasks:
        assert task is not None
        task.cancel()
    await asyncio.gather(*[task for task in tasks if task is not None], return_exceptions=True)
    await asyncio.sleep(0)  # the transports close in the step after this one


async def probed(talk: Talk, **active: Any) -> Report | None:
    async with serving(talk) as port:
        return await probe(checker(**active), Target(1, "127.0.0.1", port, "a"), TlsContexts())


def saying(*pieces: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    return talk


@pytest.mark.parametrize(
    ("pieces", "report"),
    [
        ([b"HTTP/1.1 200 OK\r\n\r\n"], Report.SUCCESS),
        ([b"HTTP/1.0 302\r\n"], Report.SUCCESS),
        ([b"HTT", b"P/1.1 50", b"3 Busy\r", b"\n"], Report.HTTP_FAILURE),
        ([b"HTTP/1.1 418 Teapot\r\n\r\n"], None),
        ([b"HTTP/1.1 2000 OK\r\n\r\n"], Report.HTTP_FAILURE),
        ([b"SSH-2.0-OpenSSH\r\n"], Report.HTTP_FAILURE),
        ([b"x" * 5000], Report.HTTP_FAILURE),
        ([b"\n"], Report.HTTP_FAILURE),
        ([b"HTTP/1.1 200 OK"], Report.TCP_FAILURE),  # closed before the line was complete
        ([], Report.TCP_FAILURE),
    ],
)
def test_status_lines(pieces: list[bytes], report: Report | None) -> None:
    assert asyncio.run(probed(saying(*pieces))) is report


def test_silence_is_a_time_out() -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    assert asyncio.run(probed(silent, timeout=0.05)) is Report.TIMEOUT
    assert asyncio.run(probed(silent, timeout=0.05, type="https")) is Report.TIMEOUT


def test_a_server_without_tls_fails_an_https_probe() -> None:
    assert asyncio.run(probed(saying(), type="https", timeout=0.5)) in (Report.TCP_FAILURE, Report.TIMEOUT)


def test_nobody_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        target = Target(1, "127.0.0.1", sock.getsockname()[1], "a")
        for type_ in ("http", "https", "tcp"):
            assert asyncio.run(probe(checker(type=type_), target, TlsContexts())) is Report.TCP_FAILURE


def test_names_are_resolved_as_told() -> None:
    asked: list[str] = []

    async def resolve(name: str) -> str:
        asked.append(name)
        if name == "gone.example":
            raise ConnectFailed("no such name")
        return "127.0.0.1"

    async def script(name: str) -> Report | None:
        async with serving(saying(b"HTTP/1.1 200 OK\r\n")) as port:
            return await probe(checker(), Target(1, name, port, name), TlsContexts(), resolve)

    assert asyncio.run(script("here.example")) is Report.SUCCESS
    assert asyncio.run(script("gone.example")) is Report.TCP_FAILURE
    assert asyncio.run(script("127.0.0.1")) is Report.SUCCESS
    assert asked == ["here.example", "gone.example"]


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "nowhere.invalid"])
def test_a_name_that_leads_nowhere(host: str) -> None:
    target = Target(1, host, 80, host)
    assert asyncio.run(probe(checker(timeout=10), target, TlsContexts())) is Report.TCP_FAILURE
