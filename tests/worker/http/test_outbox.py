"""Writes that leave at the end of a round: their order, and what happens behind them."""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from config_sync import schema
from config_sync.cache import ConfigStore, Entry
from config_sync.encryption import Keyring
from config_sync.settings import Settings
from worker.context import WorkerContext
from worker.http.http1_server import Http1Server
from worker.http.outbox import FEW, LARGE, MOST, LateTransport, Outbox
from worker.plugins.testing import PluginKit

SMALL = 16_000
HUGE = SMALL * 1_000


class Loop:
    """What is to be called at the end of the round."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def end_round(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            callback()


class Wire(asyncio.Transport):
    """Notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.seen: list[Any] = []
        self.is_lost = False
        self.is_broken = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_broken:
            raise RuntimeError("on purpose")
        self.seen.append(bytes(data))

    def write_eof(self) -> None:
        self.seen.append("eof")

    def close(self) -> None:
        self.seen.append("close")

    def abort(self) -> None:
        self.seen.append("abort")

    def is_closing(self) -> bool:
        return self.is_lost

    def get_write_buffer_size(self) -> int:
        return 7


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it has not come true")


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def outbox(loop: Loop) -> Outbox:
    return Outbox(cast("asyncio.AbstractEventLoop", loop), range(FEW))


def test_writes_leave_at_the_end_of_the_round_each_connection_in_one(loop: Loop, outbox: Outbox) -> None:
    one, two = Wire(), Wire()
    first, second = LateTransport(one, outbox), LateTransport(two, outbox)
    first.write(b"a")
    second.write(b"b")
    first.write(b"c")
    assert (one.seen, two.seen, len(loop.soon)) == ([], [], 1)
    assert first.get_write_buffer_size() == 7 + 2
    loop.end_round()
    assert (one.seen, two.seen) == ([b"ac"], [b"b"])
    assert first.get_write_buffer_size() == 7
    first.write(b"d")
    loop.end_round()
    assert one.seen == [b"ac", b"d"]


@pytest.mark.parametrize("what", ["close", "abort", "write_eof"])
def test_everything_else_happens_behind_what_waits(loop: Loop, outbox: Outbox, what: str) -> None:
    wire = Wire()
    late = LateTransport(wire, outbox)
    late.write(b"last")
    getattr(late, what)()
    assert wire.seen == [b"last", what.removeprefix("write_")]
    loop.end_round()
    assert len(wire.seen) == 2


@pytest.mark.parametrize("data", [b"x" * (LARGE + 1), bytearray(b"changing"), memoryview(b"seen")])
def test_what_is_large_or_may_change_does_not_wait(outbox: Outbox, data: Any) -> None:
    wire = Wire()
    late = LateTransport(wire, outbox)
    late.write(b"before")
    late.write(data)
    assert wire.seen == [b"before", bytes(data)]


def test_many_small_ones_do_not_become_too_much(loop: Loop, outbox: Outbox) -> None:
    wire = Wire()
    late = LateTransport(wire, outbox)
    for _ in range(3):
        late.write(b"x" * (LARGE // 2))
    assert b"".join(wire.seen) == b"x" * (LARGE // 2 * 3)
    loop.end_round()
    assert b"".join(wire.seen) == b"x" * (LARGE // 2 * 3)


def test_a_long_round_does_not_hold_up_those_that_came_first(loop: Loop, outbox: Outbox) -> None:
    wires = [Wire() for _ in range(MOST + 1)]
    for wire in wires:
        LateTransport(wire, outbox).write(b"x")
    assert [len(wire.seen) for wire in wires] == [1] * MOST + [0]
    loop.end_round()
    assert all(wire.seen == [b"x"] for wire in wires)


def test_nothing_is_written_to_who_is_gone(loop: Loop, outbox: Outbox) -> None:
    wire = Wire()
    LateTransport(wire, outbox).write(b"x")
    wire.is_lost = True
    loop.end_round()
    assert wire.seen == []


def test_one_that_fails_does_not_keep_the_others_waiting(
    loop: Loop, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Wire(), Wire()
    broken.is_broken = True
    for wire in (broken, sound):
        LateTransport(wire, outbox).write(b"x")
    with caplog.at_level(logging.ERROR):
        loop.end_round()
    assert (broken.seen, sound.seen) == (["abort"], [b"x"])
    assert "nothing can be sent" in caplog.text


def test_few_clients_wait_for_nothing(loop: Loop) -> None:
    wire = Wire()
    LateTransport(wire, Outbox(cast("asyncio.AbstractEventLoop", loop), range(FEW - 1))).write(b"x")
    assert (wire.seen, loop.soon) == ([b"x"], [])


def test_what_has_no_socket_is_not_late() -> None:
    with PluginKit() as kit:
        context = kit.context
        context.outbox = Outbox(context.loop, range(FEW))
        assert isinstance(context.late(Wire()), Wire)


@pytest.mark.parametrize("clients", [FEW, 1])
def test_a_client_that_takes_no_answers_gets_no_more_of_them(tmp_path: Path, clients: int) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        taken: list[bytes] = []

        async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.IncompleteReadError):
                while head := await reader.readuntil(b"\r\n\r\n"):
                    taken.append(head.split(b" ")[1])
                    size = HUGE if b"/huge" in head else SMALL
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                    for _ in range(size // SMALL):
                        writer.write(b"x" * SMALL)
                        await writer.drain()
            writer.close()

        node = await asyncio.start_server(upstream, "127.0.0.1", 0)
        nodes = {"nodes": {f"127.0.0.1:{node.sockets[0].getsockname()[1]}": 1}}
        store = ConfigStore(schema.decoders(Keyring((), False), None))
        context = WorkerContext(Settings(runtime_dir=str(tmp_path), access_log=False), loop, store)
        context.outbox = Outbox(loop, range(clients))
        context.start()
        store.apply([Entry("routes/1", json.dumps({"uri": "/*", "upstream": nodes}).encode(), 2, 2, 1)], 2)
        connections: list[Http1Server] = []

        def accepted() -> Http1Server:
            connections.append(Http1Server(context))
            return connections[-1]

        server = await loop.create_server(accepted, "127.0.0.1", 0)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, server.sockets[0].getsockname())
            asked = 0
            while not (connections and connections[0].write_paused):
                asked += 1
                await loop.sock_sendall(client, b"GET /small HTTP/1.1\r\nHost: a\r\n\r\n")
                await until(lambda: context.requests == asked or (bool(connections) and connections[0].write_paused))  # noqa: B023
            if connections[0].requests == asked:  # the last answer has ended
                assert connections[0]._read_paused
            await loop.sock_sendall(client, b"GET /huge HTTP/1.1\r\nHost: a\r\n\r\n")
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert connections[0].transport.get_write_buffer_size() < 1 << 20
            bodies = 0
            while bodies < asked * SMALL + HUGE:
                bodies += (await loop.sock_recv(client, 1 << 20)).count(b"x")
        assert taken == [b"/small"] * asked + [b"/huge"]
        server.close()
        context.close()
        await until(lambda: not context.upstream_connections and not context.downstream_connections)
        node.close()
        for _ in range(10):
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_what_is_written_while_others_are_sent_leaves_in_the_next_round(loop: Loop, outbox: Outbox) -> None:
    other = Wire()

    class Answering(Wire):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            super().write(data)
            LateTransport(other, outbox).write(b"more")

    LateTransport(Answering(), outbox).write(b"x")
    loop.end_round()
    assert (other.seen, len(loop.soon)) == ([], 1)
    loop.end_round()
    assert other.seen == [b"more"]
