"""What an upstream connection is apart from the protocol spoken on it: its life, its flow, its deadlines."""

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING

from worker.errors import ReadTimeout, SendTimeout
from worker.exchange import Exchange
from worker.http.kernel import in_send_queue
from worker.janitor import TICK
from worker.upstream.peer import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from worker.context import WorkerContext


class State(IntEnum):
    """Where a connection stands."""

    NEW = 0
    ACTIVE = 1
    IDLE = 2
    CLOSED = 3


# Python 3.11 takes 0.1 us to find a member in its Enum.
NEW, ACTIVE, IDLE, CLOSED = State


class UpstreamConnection(asyncio.Protocol):
    """An upstream connection; its protocol is what derives from this."""

    __slots__ = (
        "_context",
        "_exchange",
        "_is_sending",
        "_state",
        "_unsent",
        "last_active",
        "read_paused",
        "timeout",
        "transport",
        "write_paused",
    )

    def __init__(self, context: "WorkerContext") -> None:
        self._context = context
        self._state = NEW
        self.transport: asyncio.Transport
        self._exchange: Exchange | None = None
        self.timeout = DEFAULT_TIMEOUT  # of the exchange under way
        self.last_active = 0.0  # coarse: the time of the last sweep when bytes moved
        self.read_paused = False
        self.write_paused = False
        self._is_sending = False  # bytes of a body may wait for the peer to take them …
        self._unsent = 0  # … so many at the last look

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self.transport = self._context.late(transport)
        self._context.upstream_connections.add(self)
        self.last_active = self._context.now

    def is_closed(self) -> bool:
        """Tell whether it can carry nothing more."""
        return self._state is CLOSED

    def is_active(self) -> bool:
        """Tell whether an exchange is under way."""
        return self._state is ACTIVE

    @property
    def exchange(self) -> Exchange | None:
        """The exchange under way."""
        return self._exchange

    def close(self) -> None:
        """Close at once; the exchange is not told."""
        if self._state is not CLOSED:
            self._state = CLOSED
            self._exchange = None
            self._context.upstream_connections.discard(self)
            self.transport.abort()

    # flow control

    def send_body(self, data: bytes) -> None:
        """Send bytes of the request's body, already coded."""
        if self._state is ACTIVE and data:
            self.last_active = self._context.now
            self._is_sending = True
            self.transport.write(data)

    def pause_writing(self) -> None:
        """Let the client wait: the peer takes bytes more slowly than it sends them."""
        self.write_paused = True
        if self._exchange is not None and self._exchange.body is not None:
            self._exchange.body.control_flow()

    def resume_writing(self) -> None:
        """Read from the client again."""
        self.write_paused = False
        self.last_active = self._context.now
        if self._exchange is not None and self._exchange.body is not None:
            self._exchange.body.control_flow()

    def pause_reading(self) -> None:
        """Let the peer wait: the client takes bytes more slowly than it sends them."""
        if not self.read_paused and self._state is ACTIVE:
            self.read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the peer again."""
        if self.read_paused and self._state is not CLOSED:
            self.read_paused = False
            self.last_active = self._context.now
            self.transport.resume_reading()

    # waiting too long

    def check_deadlines(self, now: float) -> None:
        """Fail the exchange when the peer has taken longer than ``timeout`` allows; called by the janitor."""
        if self._is_sending:
            unsent = self.transport.get_write_buffer_size()
            if unsent:
                # The kernel asks for more only when a third of its buffer is free: too late to see a slow peer read.
                unsent += in_send_queue(self.transport)
            if unsent != self._unsent:
                self._unsent = unsent
                self.last_active = now
            self._is_sending = unsent > 0
        exchange, timeout = self._exchange, self.timeout
        # What was noted as the last activity may be up to a round older than it was.
        waited = now - self.last_active - TICK
        if exchange is None or self.read_paused or waited <= min(timeout.send, timeout.read):
            return  # when reading is paused, the client is slow, and its own time-out counts
        if self._is_sending:
            if waited > timeout.send:
                exchange.fail(SendTimeout(f"{exchange.peer!r} takes no bytes"))
        elif waited > timeout.read and (exchange.status or exchange.body is None or exchange.body.complete):
            exchange.fail(ReadTimeout(f"{exchange.peer!r} does not answer in time"))
