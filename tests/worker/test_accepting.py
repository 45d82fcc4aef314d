"""Accepting, on real sockets: nobody whom the kernel has let in is lost, whoever takes the socket over."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import pytest
import uvloop

from worker.accepting import Acceptor, AcceptorState
from worker.supervisor.messages import socket_number
from worker.supervisor.reuseport import is_waited_on

BACKLOG = 37


class Echo(asyncio.Protocol):
    """Says which acceptor it is of, and notes that it was told of its client."""

    def __init__(self, name: bytes, met: list["Echo"]) -> None:
        self._name = name
        self._met = met
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._met.append(self)
        self.transport.write(self._name)
        self.transport.close()


class Bench:
    """Two acceptors, as of two workers, with copies of the same sockets at hand."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.loop = asyncio.get_running_loop()
        self.met: list[Echo] = []

    def listener(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(BACKLOG)
        return sock

    def acceptor(self, name: bytes, slot: int, *sockets: socket.socket) -> Acceptor:
        copies = [sock.dup() for sock in sockets]
        acceptor = Acceptor(self.loop, lambda: Echo(name, self.met), BACKLOG, slot, copies)
        self._stack.callback(acceptor.close)
        return acceptor

    def client(self, sock: socket.socket) -> socket.socket:
        client = self._stack.enter_context(socket.create_connection(sock.getsockname()))
        client.setblocking(False)
        return client

    async def answer(self, client: socket.socket) -> bytes:
        return await asyncio.wait_for(self.loop.sock_recv(client, 64), 10)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110 - the kernel changes what it looks at
                await asyncio.sleep(0.001)


def play(script: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        with ExitStack() as stack:
            await script(Bench(stack))
        # What the loop closes is closed in its next turns.
        for _ in range(3):
            await asyncio.sleep(0)

    uvloop.run(main())


def backlog_of(sock: socket.socket) -> int:
    # In TCP_INFO of a listening socket, tcpi_sacked is the greatest length of its queue (tcp_get_info).
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[28:32], "little")


def test_clients_that_came_before_the_start_are_accepted() -> None:
    async def script(bench: Bench) -> None:
        sock = bench.listener()
        client = bench.client(sock)
        await bench.acceptor(b"a", 0, sock).start()
        assert await bench.answer(client) == b"a"

    play(script)


def test_a_pause_leaves_clients_in_the_queue_and_resuming_takes_them() -> None:
    async def script(bench: Bench) -> None:
        sock = bench.listener()
        acceptor = bench.acceptor(b"a", 0, sock)
        await acceptor.start()
        for _ in range(3):
            acceptor.pause()
            assert acceptor.state is AcceptorState.PAUSED
            client = bench.client(sock)
            await asyncio.sleep(0.02)
            assert is_waited_on(sock)
            assert not bench.met
            resumed = asyncio.Event()
            acceptor.resume(resumed.set)
            assert await bench.answer(client) == b"a"
            assert resumed.is_set()
            bench.met.clear()

    play(script)


def test_the_last_word_counts_when_pauses_and_resumes_follow_each_other() -> None:
    async def script(bench: Bench) -> None:
        sock = bench.listener()
        acceptor = bench.acceptor(b"a", 0, sock)
        await acceptor.start()
        acceptor.pause()
        acceptor.resume()
        acceptor.pause()
        client = bench.client(sock)
        await asyncio.sleep(0.02)
        assert is_waited_on(sock)
        acceptor.resume()
        acceptor.pause()
        acceptor.resume()
        acceptor.resume()
        assert await bench.answer(client) == b"a"
        assert len(bench.met) == 1

    play(script)


def test_clients_of_a_pause_are_accepted_by_the_successor() -> None:
    async def script(bench: Bench) -> None:
        sock = bench.listener()
        old, new = bench.acceptor(b"old", 0, sock), bench.acceptor(b"new", 0, sock)
        await old.start()
        old.pause()
        client = bench.client(sock)
        await new.start()
        assert await bench.answer(client) == b"new"

    play(script)


def test_no_client_is_lost_in_a_hundred_handovers() -> None:
    async def script(bench: Bench) -> None:
        sock = bench.listener()
        acceptors = [bench.acceptor(name, 0, sock) for name in (b"a", b"b")]
        await acceptors[0].start()
        clients = []
        for turn in range(100):
            clients += [bench.client(sock) for _ in range(3)]
            await asyncio.sleep(0 if turn % 2 else 0.001)
            await acceptors[(turn + 1) % 2].start()
            acceptors[turn % 2].pause()
        assert {await bench.answer(client) for client in clients} == {b"a", b"b"}
        assert len(bench.met) == 300

    play(script)


def test_an_accepted_client_is_told_of_within_two_turns_of_a_pause() -> None:
    async def script(bench: Bench) -> None:
        sock = bench.listener()
        acceptor = bench.acceptor(b"a", 0, sock)
        await acceptor.start()
        for _ in range(50):
            bench.client(sock)
            await bench.until(lambda: not is_waited_on(sock))
            acceptor.pause()
            told = len(bench.met)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            later = len(bench.met)
            await asyncio.sleep(0.002)
            assert told <= later == len(bench.met)
            acceptor.resume()

    play(script)


def test_an_adopted_socket_is_accepted_from_until_it_is_released() -> None:
    async def script(bench: Bench) -> None:
        own, other = bench.listener(), bench.listener()
        acceptor = bench.acceptor(b"a", 0, own)
        await acceptor.start()
        acceptor.adopt(1, [other.dup()])
        assert acceptor.slots == [0, 1]
        assert await bench.answer(bench.client(other)) == b"a"
        released = asyncio.Event()
        acceptor.release(1, released=released.set)
        await asyncio.wait_for(released.wait(), 10)
        assert acceptor.slots == [0]
        bench.client(other)
        await asyncio.sleep(0.02)
        assert is_waited_on(other)
        assert await bench.answer(bench.client(own)) == b"a"

    play(script)


def test_what_waits_is_accepted_before_a_socket_is_released() -> None:
    async def script(bench: Bench) -> None:
        sock = bench.listener()
        acceptor = bench.acceptor(b"a", 0, sock)
        await acceptor.start()
        clients = [bench.client(sock) for _ in range(BACKLOG)]  # the loop has had no chance to accept one
        released = asyncio.Event()
        acceptor.release(0, released=released.set)
        await asyncio.wait_for(released.wait(), 10)
        assert not is_waited_on(sock)
        assert [await bench.answer(client) for client in clients] == [b"a"] * BACKLOG

    play(script)


def test_a_paused_acceptor_releases_without_accepting() -> None:
    async def script(bench: Bench) -> None:
        sock = bench.listener()
        acceptor = bench.acceptor(b"a", 0, sock)
        client = bench.client(sock)
        released = asyncio.Event()
        acceptor.release(0, released=released.set)
        await asyncio.wait_for(released.wait(), 10)
        assert is_waited_on(sock)
        await bench.acceptor(b"b", 0, sock).start()
        assert await bench.answer(client) == b"b"

    play(script)


def test_what_is_adopted_in_a_pause_waits_for_its_end() -> None:
    async def script(bench: Bench) -> None:
        other = bench.listener()
        acceptor = bench.acceptor(b"a", 0)
        acceptor.adopt(1, [other.dup()])
        client = bench.client(other)
        await asyncio.sleep(0.02)
        assert is_waited_on(other)
        acceptor.resume()
        assert await bench.answer(client) == b"a"

    play(script)


@contextmanager
def open_files_unchanged() -> Iterator[None]:
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    yield
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


def test_nothing_stays_open() -> None:
    async def script(bench: Bench) -> None:
        own, other = bench.listener(), bench.listener()
        acceptor = bench.acceptor(b"a", 0, own)
        await acceptor.start()
        acceptor.adopt(1, [other.dup()])
        acceptor.adopt(1, [other.dup()])  # twice the same
        acceptor.pause()
        acceptor.resume()
        acceptor.release(1)
        acceptor.release(7)
        acceptor.close()
        acceptor.adopt(2, [other.dup()])
        acceptor.resume()
        await acceptor.start()
        assert acceptor.slots == []

    play(script)  # what the loop opens once and keeps
    with open_files_unchanged():
        play(script)


def test_the_backlog_stays_what_it_is() -> None:
    async def script(bench: Bench) -> None:
        sock = bench.listener()
        acceptor = bench.acceptor(b"a", 0, sock)
        assert backlog_of(sock) == BACKLOG
        await acceptor.start()
        assert backlog_of(sock) == BACKLOG
        acceptor.pause()
        acceptor.resume()
        await asyncio.sleep(0.01)
        assert backlog_of(sock) == BACKLOG

    play(script)


def test_one_address_of_a_slot_is_released() -> None:
    async def script(bench: Bench) -> None:
        kept, given_up = bench.listener(), bench.listener()
        acceptor = bench.acceptor(b"a", 0, kept, given_up)
        await acceptor.start()
        released = asyncio.Event()
        acceptor.release(0, [socket_number(given_up)], released.set)
        await asyncio.wait_for(released.wait(), 10)
        assert acceptor.slots == [0]
        assert await bench.answer(bench.client(kept)) == b"a"
        bench.client(given_up)
        await asyncio.sleep(0.02)
        assert is_waited_on(given_up)

    play(script)


def test_a_socket_that_cannot_be_listened_on_is_an_error_of_the_start() -> None:
    async def script(bench: Bench) -> None:
        with socket.socket() as first, socket.socket() as second:
            for sock in (first, second):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            first.bind(("127.0.0.1", 0))
            second.bind(first.getsockname())
            first.listen(1)
            with pytest.raises(OSError, match="in use"):
                await bench.acceptor(b"a", 0, second).start()

    play(script)
