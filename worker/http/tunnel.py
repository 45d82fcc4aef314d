"""Two connections after a 101: what the one receives is sent on the other, both ways (upstreams.md section 9).

    OPEN ──► CLOSING ──► CLOSED

A side that has said all is half closed on the other side, as with TCP itself; the tunnel closes when both have, when
one of them is lost, or when neither sends anything for ``timeout.read``. What is on its way then is still delivered.
"""

import asyncio
from enum import IntEnum
from typing import TYPE_CHECKING

from worker.exchange import Exchange

if TYPE_CHECKING:
    from worker.context import WorkerContext
    from worker.http.http1_client import Http1Client
    from worker.http.http1_server import Http1Server


class State(IntEnum):
    """Where a tunnel stands."""

    OPEN = 0
    CLOSING = 1
    CLOSED = 2


class End(asyncio.Protocol):
    """One of the two connections, as the protocol of its transport."""

    __slots__ = ("_is_paused", "bytes_received", "has_ended", "is_lost", "other", "transport", "tunnel")

    other: "End"

    def __init__(self, tunnel: "Tunnel", transport: asyncio.Transport) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.has_ended = False  # it will say nothing more
        self.is_lost = False
        self.bytes_received = 0
        self._is_paused = False

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        self.bytes_received += len(data)
        self.tunnel.data_passed()
        if not self.other.transport.is_closing():
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        """Half close the other side, or close both when it has ended too."""
        self.has_ended = True
        other = self.other.transport
        if self.other.has_ended or other.is_closing() or not other.can_write_eof():
            self.tunnel.close()
        else:
            other.write_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other side too, and at once when this one was reset."""
        self.is_lost = True
        if exc is not None:
            self.other.transport.abort()
        self.tunnel.lost()

    def pause_writing(self) -> None:
        """Let the other side wait: this one takes bytes more slowly than it sends them."""
        self.other.pause_reading()

    def resume_writing(self) -> None:
        """Read from the other side again."""
        self.other.resume_reading()

    def pause_reading(self) -> None:
        """Read nothing until ``resume_reading``."""
        if not self._is_paused and not self.transport.is_closing():
            self._is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._is_paused and not self.transport.is_closing():
            self._is_paused = False
            self.transport.resume_reading()


class Tunnel:
    """An upgraded exchange; it resumes the exchange when it has ended."""

    __slots__ = ("_client", "_context", "_downstream", "_exchange", "_last_active", "_peer", "_state", "_timeout")

    def __init__(
        self, context: "WorkerContext", exchange: Exchange, upstream: "Http1Client", downstream: "Http1Server"
    ) -> None:
        """Prepare to take both connections over from their protocols."""
        self._context = context
        self._exchange = exchange
        self._downstream = downstream
        self._timeout = upstream.timeout
        self._state = State.OPEN
        self._last_active = context.now
        self._client = End(self, downstream.transport)
        self._peer = End(self, upstream.transport)
        self._client.other, self._peer.other = self._peer, self._client

    def open(self, from_client: bytes, client_has_ended: bool, from_peer: bytes) -> None:
        """Take over; the bytes are what each side has sent behind its head."""
        self._context.tunnels.add(self)
        self._exchange.waiting = self
        for end, early in ((self._client, from_client), (self._peer, from_peer)):
            end.transport.set_protocol(end)
            if early:
                end.data_received(early)
        if client_has_ended:
            self._client.eof_received()

    def data_passed(self) -> None:
        """Note that the tunnel is in use."""
        self._last_active = self._context.now

    def check_deadlines(self, now: float) -> None:
        """Close when nothing has been sent for ``timeout.read``, for good when nothing is taken either."""
        if self._state is State.OPEN:
            if now - self._last_active > self._timeout.read:
                self.close()
        elif now - self._last_active > self._timeout.send:
            self.abort()

    def close(self) -> None:
        """Close both sides once what was passed on has been sent, and end the exchange."""
        if self._state is State.OPEN:
            self._state = State.CLOSING
            self._last_active = self._context.now
            for end in (self._client, self._peer):
                end.transport.close()
            exchange = self._exchange
            exchange.bytes_sent = self._peer.bytes_received
            if exchange.waiting is self:
                exchange.resume()

    def abort(self) -> None:
        """Close both sides at once, and end the exchange."""
        self.close()
        for end in (self._client, self._peer):
            end.transport.abort()

    def lost(self) -> None:
        """Close the side that is left; forget the tunnel when none is."""
        self.close()
        if self._client.is_lost and self._peer.is_lost and self._state is not State.CLOSED:
            self._state = State.CLOSED
            self._context.tunnels.discard(self)
            self._downstream.connection_lost(None)

    def __repr__(self) -> str:
        """Show the state and how much was passed on each way."""
        up, down = self._client.bytes_received, self._peer.bytes_received
        return f"<Tunnel {self._state.name} {up} bytes up, {down} bytes down>"
