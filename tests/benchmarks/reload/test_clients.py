"""The clients see what goes wrong: they are run against servers that misbehave in one way each."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from benchmarks.reload import websocket
from benchmarks.reload.clients import Gate, Group
from benchmarks.reload.tally import Client, Fault, Summary, Tally
from benchmarks.reload.upstream import Talk
from tests.fakes.etcd import until

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def seen(serve: "Serve | None", enough: Callable[[Summary], object], **counts: int) -> Summary:
    """Run clients against a server, None for the real upstream, until they have seen enough."""
    loop = asyncio.get_running_loop()
    if serve is None:
        server: asyncio.Server = await loop.create_server(Talk, "127.0.0.1", 0)
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
    group = Group("all", server.sockets[0].getsockname()[1], transfer=(0.1, 0.2), message_pause=0.01, **counts)
    tally, gate = Tally(0.0), Gate()
    tasks = [asyncio.create_task(client.run()) for client in group.clients(tally, gate)]
    await until(lambda: enough(tally.summary(1.0)), "they have seen enough")
    gate.stopping.set()
    await asyncio.gather(*tasks)
    server.close()
    return tally.summary(1.0)


async def answer_tokens(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int, said: bytes) -> None:
    """Answer so many requests, and end the connection."""
    try:
        for _ in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            token = head.split(b" ")[1].rpartition(b"/")[2]
            writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (said, len(token), token))
    except asyncio.IncompleteReadError:
        pass  # the client has hung up
    finally:
        writer.close()


def test_an_end_that_was_not_announced_is_a_failure() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer_tokens(reader, writer, 2, b"")

    summary = asyncio.run(seen(serve, lambda summary: summary.failed() >= 2, kept=1))
    kept = summary.clients[Client.KEPT]
    assert sum(kept.failed.values()) >= 2
    assert set(kept.failed) <= {Fault.EOF, Fault.RESET}
    assert kept.answered >= 2 * sum(kept.failed.values())


def test_an_end_that_was_announced_is_none() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer_tokens(reader, writer, 1, b"Connection: close\r\n")

    summary = asyncio.run(seen(serve, lambda summary: summary.answered() >= 10, new=1, kept=1))
    assert summary.failures == []
    assert all(kind.connections == kind.answered for kind in summary.clients.values())


def test_the_answer_of_another_request_is_a_failure() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother")
        await reader.read()
        writer.close()

    summary = asyncio.run(seen(serve, lambda summary: summary.failed() >= 2, kept=1))
    assert set(summary.clients[Client.KEPT].failed) == {Fault.BODY}


def test_all_kinds_are_served_by_the_real_upstream() -> None:
    def enough(summary: Summary) -> bool:
        kinds = summary.clients.values()
        return len(kinds) == 4 and all(kind.answered >= 2 for kind in kinds) and summary.messages > 20

    summary = asyncio.run(seen(None, enough, kept=2, websockets=2, uploads=4, downloads=4))
    assert summary.failures == []
    assert summary.closings == []


@pytest.mark.parametrize(
    ("last", "closed_with", "fault"),
    [
        (websocket.frame(websocket.CLOSE, b"\x03\xf4"), 1012, None),
        (b"", None, Fault.TRUNCATED),
        (websocket.frame(websocket.BINARY, b"tick 7"), None, Fault.BODY),
        (b"\x00\x00", None, Fault.MALFORMED),
    ],
)
def test_how_a_websocket_ends(last: bytes, closed_with: int | None, fault: Fault | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        accept = websocket.accept_value(key)
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: %b\r\n\r\n" % accept)
        writer.write(websocket.frame(websocket.BINARY, b"tick 0") + last)
        writer.close()

    summary = asyncio.run(seen(serve, lambda summary: summary.failed() + len(summary.closings) >= 1, websockets=1))
    assert {closing.code for closing in summary.closings} == ({closed_with} if closed_with else set())
    assert set(summary.clients[Client.WEBSOCKET].failed) == ({fault} if fault else set())
