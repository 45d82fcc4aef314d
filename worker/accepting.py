"""A worker's accepting: on the listening sockets of its slot, and on those it has adopted from others.

    ACCEPTING ◄──► PAUSED ──► closed

Closing a server of the event loop closes its descriptor, but a pause must leave the listening socket as it is, with
what the kernel queues on it. So each server gets a copy of the descriptor, and the original stays here. Creating a
server calls listen() once more, which sets the backlog: it is always given the one of the settings. uvloop hides that
this has failed (it returns a server without sockets), so it is called here before.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum

from worker.supervisor.messages import socket_number
from worker.supervisor.reuseport import is_waited_on

log = logging.getLogger("propylon.worker")

QUEUE_CHECK = 0.005  # seconds between two looks at the queue of a socket that is released
RELEASE_PATIENCE = 1.0  # seconds; who has the socket by then accepts the rest

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class AcceptorState(Enum):
    """Whether clients are accepted."""

    ACCEPTING = "accepting"
    PAUSED = "paused"
    CLOSED = "closed"


class Listening:
    """A listening socket, and the server that accepts from it while there is one."""

    __slots__ = ("server", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.server: asyncio.AbstractServer | None = None

    def stop(self) -> None:
        """Accept no more; connections that the kernel queues wait."""
        if self.server is not None:
            self.server.close()
            self.server = None

    def close(self) -> None:
        """Stop, and give the socket up; it lives on as long as others have it."""
        self.stop()
        self.sock.close()


class Acceptor:
    """Accepts the clients of a worker; the sockets it is given, and is made to adopt, are its own to close.

    A new client is a protocol of ``factory``. The loop tells it of its connection in the turn after the one that has
    accepted it: who wants to know whether anybody is left looks again a few turns after ``pause``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: ProtocolFactory,
        backlog: int,
        slot: int,
        sockets: Iterable[socket.socket],
    ) -> None:
        self.state = AcceptorState.PAUSED
        self._loop = loop
        self._factory = factory
        self._backlog = backlog
        self._slots: dict[int, list[Listening]] = {slot: [Listening(sock) for sock in sockets]}
        self._leaving: list[Listening] = []  # of released slots, until their queues are empty
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def slots(self) -> list[int]:
        """The slots whose sockets are here: the own one, then the adopted ones."""
        return list(self._slots)

    async def start(self) -> None:
        """Accept; returns when the kernel lets clients in.

        Raises:
            OSError: a socket cannot be listened on.
        """
        if self.state is not AcceptorState.CLOSED:
            self.state = AcceptorState.ACCEPTING
            await self._serve_all()

    def resume(self, resumed: Callable[[], object] = lambda: None) -> None:
        """Accept again after a pause, then call ``resumed``."""
        if self.state is not AcceptorState.CLOSED:
            self.state = AcceptorState.ACCEPTING
            self._begin(resumed)

    def pause(self) -> None:
        """Accept nobody, and leave the sockets as they are, to others or for later."""
        if self.state is AcceptorState.ACCEPTING:
            self.state = AcceptorState.PAUSED
            for listening in self._all():
                listening.stop()

    def adopt(self, slot: int, sockets: Sequence[socket.socket]) -> None:
        """Accept from the sockets of another slot, too, unless paused; those of a slot that is here are closed."""
        if slot in self._slots or self.state is AcceptorState.CLOSED:
            for sock in sockets:
                sock.close()
            return
        self._slots[slot] = [Listening(sock) for sock in sockets]
        if self.state is AcceptorState.ACCEPTING:
            self._begin(lambda: None)

    def release(self, slot: int, numbers: Collection[int] = (), released: Callable[[], object] = lambda: None) -> None:
        """Accept what waits on the sockets of a slot, or those with these numbers, then give them up.

        When clients keep coming, which others accept too, the sockets are given up after a second. Nothing that
        waits is lost as long as somebody else has the sockets.

        Args:
            slot: the own one, or an adopted one.
            numbers: as of ``socket_number``; none: all.
            released: called when they are closed.
        """
        of_slot = self._slots.get(slot, [])
        given_up = [each for each in of_slot if not numbers or socket_number(each.sock) in numbers]
        for listening in given_up:
            of_slot.remove(listening)
        if not of_slot:
            self._slots.pop(slot, None)
        self._leaving += given_up
        self._spawn(self._release(given_up, released))

    def close(self) -> None:
        """Give up all sockets."""
        self.state = AcceptorState.CLOSED
        for task in self._tasks:
            task.cancel()
        for listening in (*self._all(), *self._leaving):
            listening.close()
        self._slots.clear()
        self._leaving.clear()

    def _all(self) -> list[Listening]:
        return [listening for of_slot in self._slots.values() for listening in of_slot]

    def _spawn(self, coroutine: "asyncio._CoroutineLike[None]") -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _begin(self, begun: Callable[[], object]) -> None:
        self._spawn(self._try_to_serve(begun))

    async def _try_to_serve(self, begun: Callable[[], object]) -> None:
        try:
            await self._serve_all()
        except OSError as error:
            log.error("cannot accept: %s", error)
        else:
            begun()

    async def _serve_all(self) -> None:
        for listening in self._all():
            if listening.server is None:
                await self._serve(listening)

    async def _serve(self, listening: Listening) -> None:
        listening.sock.listen(self._backlog)
        server = await self._loop.create_server(self._factory, sock=listening.sock.dup(), backlog=self._backlog)
        # Meanwhile it may have been told otherwise, or to begin twice.
        if listening.server is None and self.state is AcceptorState.ACCEPTING and listening in self._all():
            listening.server = server
        else:
            server.close()

    async def _release(self, given_up: list[Listening], released: Callable[[], object]) -> None:
        until = self._loop.time() + RELEASE_PATIENCE
        while self._accepts_from(given_up) and self._loop.time() < until:  # noqa: ASYNC110 - it is the kernel that tells
            await asyncio.sleep(QUEUE_CHECK)
        for listening in given_up:
            listening.close()
            self._leaving.remove(listening)
        released()

    def _accepts_from(self, given_up: list[Listening]) -> bool:
        """Tell whether clients wait that we accept."""
        return any(listening.server is not None and is_waited_on(listening.sock) for listening in given_up)
