"""What a downstream connection is apart from the protocol spoken on it: its ends, its flow, its deadlines, its end."""

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING

from worker.errors import RequestTimeout
from worker.exchange import Exchange
from worker.http.kernel import in_receive_queue, in_send_queue, reset_on_close, since_last_ack
from worker.http.lingering import Lingering
from worker.http.request_reader import RequestReader
from worker.plugins.tasks import Waiting

if TYPE_CHECKING:
    from worker.context import WorkerContext

MAX_PENDING_BYTES = 65_536


class State(IntEnum):
    """Where a connection stands."""

    IDLE = 0
    HEAD = 1
    EXCHANGE = 2
    LINGERING = 3  # another protocol has the transport
    TUNNEL = 4  # likewise
    CLOSED = 5


# Python 3.11 takes 0.1 us to find a member in its Enum.
IDLE, HEAD, EXCHANGE, LINGERING, TUNNEL, CLOSED = State


class ClientConnection(asyncio.Protocol):
    """A downstream connection; its protocol is what derives from this."""

    __slots__ = (
        "_context",
        "_exchange",
        "_half_closed",
        "_pending",
        "_read_paused",
        "_since",
        "_state",
        "_written_at",
        "keep_alive",
        "number",
        "reader",
        "requests",
        "transport",
        "until_close",
        "write_paused",
    )

    scheme = "http"

    def __init__(self, context: "WorkerContext") -> None:
        self._context = context
        self._state = IDLE
        self.transport: asyncio.Transport
        self.reader: RequestReader
        self._pending = b""
        self._exchange: Exchange | None = None
        self._since = 0.0  # coarse: when the state began, or bytes of a body last came
        self._written_at: tuple[int, float] = (0, 0.0)  # bytes that waited, and since when it was not fewer
        self._read_paused = False
        self.write_paused = False
        self._half_closed = False  # the client sends nothing more, but reads
        self.until_close = False  # only the end of the connection tells the client where the answer ends
        self.keep_alive = True
        self.number = 0  # of the worker's connections
        self.requests = 0

    @property
    def context(self) -> "WorkerContext":
        """What the connections of the worker share."""
        return self._context

    # its ends

    @property
    def remote_address(self) -> str:
        """The client's address, which a peer that is believed may name."""
        return self.reader.remote_address

    @property
    def remote_port(self) -> int:
        """The client's port; 0 when it is not known."""
        return self.reader.remote_port

    @property
    def peer_address(self) -> str:
        """The address at the other end of the connection."""
        return self.reader.peer_address

    @property
    def peer_port(self) -> int:
        """The port at the other end of the connection."""
        return self.reader.peer_port

    @property
    def local_address(self) -> str:
        """The address at this end of the connection."""
        return self.reader.local_address

    @property
    def local_port(self) -> int:
        """The port at this end of the connection."""
        return self.reader.local_port

    @property
    def keeps_forwarded_for(self) -> bool:
        """Whether the client's own X-Forwarded-For counts."""
        return self.reader.keeps_forwarded_for

    # flow control

    def pause_reading(self) -> None:
        """Let the client wait."""
        if not self._read_paused and self._state is not CLOSED:
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the client again."""
        if self._read_paused and self._state is not CLOSED and len(self._pending) <= MAX_PENDING_BYTES:
            self._read_on()

    def _read_on(self) -> None:
        self._read_paused = False
        self._since = self._context.now
        self.transport.resume_reading()

    def pause_writing(self) -> None:
        """Let the peer wait: the client takes bytes more slowly than it sends them."""
        self.write_paused = True
        self._written_at = self.transport.get_write_buffer_size(), self._context.now
        if self._state <= HEAD:
            self.pause_reading()  # the answer has ended that was too much, and who does not take it gets no other
        elif self._exchange is not None and self._exchange.connection is not None:
            self._exchange.connection.pause_reading()

    def resume_writing(self) -> None:
        """Read from the peer again."""
        self.write_paused = False
        if self._state <= HEAD:
            self._go_on()
        elif self._exchange is not None and self._exchange.connection is not None:
            self._exchange.connection.resume_reading()

    def _go_on(self) -> None:
        """Turn to what the client has sent ahead, and to what it still will; the protocol's."""
        raise NotImplementedError

    # waiting too long

    def check_deadlines(self, now: float) -> None:
        """Close, or refuse, when the client has taken longer than the settings allow; called by the janitor."""
        settings = self._context.settings
        waited = now - self._since
        if self._state is LINGERING or self._state is TUNNEL:
            return
        if self.write_paused or self._state is CLOSED:
            self._check_progress(now, settings.send_timeout)
        elif self._state is IDLE:
            if waited > (settings.keepalive_timeout if self.requests else settings.client_header_timeout):
                self.close()
            elif self._context.draining:
                self._leave(now)
        elif self._state is HEAD:
            if waited > settings.client_header_timeout:
                self._refuse_late_head(now)
        elif self._exchange is not None:
            self._check_exchange(self._exchange, now, waited > settings.client_body_timeout)

    def _check_exchange(self, exchange: Exchange, now: float, is_quiet: bool) -> None:
        body, waiting = exchange.body, exchange.waiting
        if is_quiet and body is not None and not (body.complete or body.is_withheld or self._read_paused):
            exchange.fail(RequestTimeout("request body not complete in time"))
        elif isinstance(waiting, Waiting):
            waiting.check_deadline(now)

    def _leave(self, now: float) -> None:
        """Close the idle connection of a worker that drains, when it is likely that the client is not about to ask.

        What it has asked may wait in the kernel, unread; and its last answer may still be on its way to it.
        """
        context, transport = self._context, self.transport
        quiet = context.settings.keepalive_min
        if (
            now - self._since >= quiet
            and now >= context.leaving_time(self.number)
            and not in_receive_queue(transport)
            and not in_send_queue(transport)
            and since_last_ack(transport) >= quiet
        ):
            self.close()

    def _check_progress(self, now: float, send_timeout: float) -> None:
        waiting, since = self._written_at
        size = self.transport.get_write_buffer_size()
        if size != waiting:
            self._written_at = size, now
        elif now - since > send_timeout:
            self.abort()

    def _refuse_late_head(self, now: float) -> None:
        """Answer a head that is not complete in time; the protocol's."""
        raise NotImplementedError

    # its end

    def drain_changed(self) -> None:
        """Decide anew whether the answer under way is the last one, unless it has begun and so said it already.

        A client whose answer has begun without ``Connection: close`` may send its next request at any moment, and so
        may an idle one: to close either of them at once would lose that request. The janitor does when they are quiet.
        """
        exchange = self._exchange
        if exchange is not None and exchange.request is not None and not exchange.status:
            self.keep_alive = self._may_keep_alive()

    def _may_keep_alive(self) -> bool:
        """Tell whether more requests are to be expected after the one under way, as far as the client is asked."""
        context = self._context
        return self.reader.asks_keep_alive and (not context.draining or context.waits_for(self._pending))

    def close(self) -> None:
        """Close once what was written has been sent; the janitor aborts when it is not taken."""
        if self._state is not CLOSED:
            self._state = CLOSED
            self._written_at = 0, self._context.now
            self.transport.close()

    def abort(self) -> None:
        """Close at once: the client must see that the answer is not whole."""
        self.keep_alive = False
        if self._state is not CLOSED:
            self._state = CLOSED
            if self.until_close and self._exchange is not None:
                reset_on_close(self.transport)
            self.transport.abort()

    def _linger(self) -> None:
        if self._half_closed:
            self.close()
            return
        self._pending = b""
        self.resume_reading()
        self._state = LINGERING
        Lingering(self._context, self.transport, self)
