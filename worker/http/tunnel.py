"""Two connections after a 101: what the one receives is sent on the other, both ways (upstreams.md section 9).

    OPEN ──┬────────────► CLOSING ──► CLOSED
           └► LEAVING ──►

A side that has said all is half closed on the other side, as with TCP itself; the tunnel closes when both have, when
one of them is lost, or when neither sends anything for ``timeout.read``. What is on its way then is still delivered.

When a worker that drains has to end, it takes leave of its WebSockets (``leaving``). For that their
frames are followed.
"""

import asyncio
import os
from enum import IntEnum
from typing import TYPE_CHECKING

from worker.exchange import Exchange
from worker.http.leaving import ANSWER_TIME, FRAME_TIME, Leaving
from worker.http.lingering import Lingering
from worker.http.websocket import GOING_AWAY, SHORT_FRAMES, FrameCursor, close_frame

if TYPE_CHECKING:
    from worker.context import WorkerContext
    from worker.http.http1_client import Http1Client
    from worker.http.http1_server import Http1Server

HALF_CLOSED_SILENCE = 1.0  # seconds without a byte from a TLS peer that cannot be told that the client has said all


class State(IntEnum):
    """Where a tunnel stands."""

    OPEN = 0
    LEAVING = 1
    CLOSING = 2
    CLOSED = 3


class End(asyncio.Protocol):
    """One of the two connections, as the protocol of its transport."""

    __slots__ = ("_is_paused", "bytes_received", "has_ended", "is_lost", "leaving", "other", "transport", "tunnel")

    other: "End"

    def __init__(self, tunnel: "Tunnel", transport: asyncio.Transport) -> None:
        self.tunnel = tunnel
        self.transport = transport
        self.has_ended = False  # it will say nothing more
        self.is_lost = False
        self.bytes_received = 0
        self.leaving: Leaving | None = None
        self._is_paused = False

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        tunnel = self.tunnel
        tunnel.last_active = tunnel.context.now
        self.bytes_received += len(data)
        other = self.other.transport
        if not other.is_closing():
            other.write(data)

    def pass_on(self, data: bytes) -> None:
        """Pass on bytes, whatever is followed of them."""
        End.data_received(self, data)

    def eof_received(self) -> bool:
        """Half close the other side, or close both when it has ended too."""
        self.has_ended = True
        self.tunnel.ended(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Close the other side too, and at once when this one was reset."""
        self.is_lost = True
        if exc is not None:
            self.other.transport.abort()
        self.tunnel.lost()

    def close(self) -> None:
        """Close once what was passed on has been sent; what still comes is of no use to anybody."""
        if not self.is_lost:
            self.resume_reading()
            Lingering(self.tunnel.context, self.transport, self, has_ended=self.has_ended)

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


class FrameEnd(End):
    """One of the two ends of a WebSocket; ``cursor`` is at the end of what has been passed on of what it sent."""

    __slots__ = ("cursor",)

    def __init__(self, tunnel: "Tunnel", transport: asyncio.Transport) -> None:
        super().__init__(tunnel, transport)
        self.cursor = FrameCursor()

    def data_received(self, data: bytes) -> None:
        """Pass bytes on; mostly they are one short frame."""
        cursor = self.cursor
        size = len(data)
        if cursor.left or size < 2 or size != SHORT_FRAMES[data[1]]:
            cursor.feed(data)
        else:
            cursor.whole = data
        tunnel = self.tunnel
        tunnel.last_active = tunnel.context.now
        self.bytes_received += size
        other = self.other.transport
        if not other.is_closing():
            other.write(data)

    def leave(self, farewell: bytes) -> None:
        """Take leave of the other side by a Close frame, when this one is between two frames."""
        self.leaving = Leaving(self, farewell)
        self.leaving.tell()


class Tunnel:
    """An upgraded exchange; it resumes the exchange when it has ended."""

    __slots__ = (
        "_client",
        "_downstream",
        "_exchange",
        "_leaving_since",
        "_peer",
        "_silence",
        "_state",
        "context",
        "last_active",
    )

    def __init__(
        self,
        context: "WorkerContext",
        exchange: Exchange,
        upstream: "Http1Client",
        downstream: "Http1Server",
        *,
        is_websocket: bool,
    ) -> None:
        """Take both connections over from their protocols; ``open`` lets the bytes flow."""
        self.context = context
        self._exchange = exchange
        self._downstream = downstream
        self._silence = upstream.timeout.read  # nothing is sent for so long
        self._state = State.OPEN
        self.last_active = context.now  # coarse: bytes were passed on
        self._leaving_since = 0.0
        kind = FrameEnd if is_websocket else End
        self._client, self._peer = kind(self, downstream.transport), kind(self, upstream.transport)
        self._client.other, self._peer.other = self._peer, self._client
        context.tunnels.add(self)
        for end in (self._client, self._peer):
            end.transport.set_protocol(end)
        # Each side may be full of what was sent before, and will only tell when it no longer is.
        if upstream.write_paused:
            self._client.pause_reading()
        if downstream.write_paused:
            self._peer.pause_reading()

    @property
    def is_websocket(self) -> bool:
        """Whether its frames can be followed."""
        return isinstance(self._client, FrameEnd)

    def open(self, from_client: bytes, client_has_ended: bool, from_peer: bytes) -> None:
        """Begin; the bytes are what each side has sent behind its head."""
        self._exchange.waiting = self
        if from_client:
            self._client.data_received(from_client)
        if from_peer:
            self._peer.data_received(from_peer)
        if client_has_ended:
            self._client.eof_received()

    def check_deadlines(self, now: float) -> None:
        """Close when nothing has been sent for ``timeout.read``, or a Close is not answered."""
        if self._state is State.OPEN:
            if now - self.last_active > self._silence:
                self.close()
        elif self._state is State.LEAVING:
            leaving = [end.leaving for end in (self._client, self._peer) if end.leaving is not None]
            for one in leaving:
                one.tell()
            limit = FRAME_TIME + (ANSWER_TIME if all(one.has_told for one in leaving) else 0)
            if now - self._leaving_since > limit:
                self.close()

    def ended(self, end: End) -> None:
        """Tell the other side of one that has said all, or close when that cannot be told."""
        other = end.other
        if other.has_ended or other.transport.is_closing():
            self.close()
        elif other.transport.can_write_eof():
            other.transport.write_eof()
        else:
            # TLS knows no half-closed connections; but the other side may be in the middle of its answer.
            self._silence = min(self._silence, HALF_CLOSED_SILENCE)
            self.last_active = self.context.now

    def leave(self, code: int) -> None:
        """Close a WebSocket because the worker ends; ``code`` tells the client why (RFC 6455 section 7.4)."""
        client, peer = self._client, self._peer
        if self._state is State.OPEN and isinstance(client, FrameEnd) and isinstance(peer, FrameEnd):
            self._state = State.LEAVING
            self._leaving_since = self.context.now
            peer.leave(close_frame(code))
            client.leave(close_frame(GOING_AWAY, os.urandom(4)))
            self.has_left()

    def has_left(self) -> None:
        """Close, when both sides have been told and have said good-bye themselves."""
        if self._state is State.LEAVING:
            leaving = self._client.leaving, self._peer.leaving
            if all(one is not None and one.is_over for one in leaving):
                self.close()

    def close(self) -> None:
        """Close both sides once what was passed on has been sent, and end the exchange."""
        if self._state <= State.LEAVING:
            self._state = State.CLOSING
            self.last_active = self.context.now
            for end in (self._client, self._peer):
                end.close()
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
            self.context.tunnels.discard(self)
            self._downstream.connection_lost(None)

    def __repr__(self) -> str:
        """Show the state and how much was passed on each way."""
        up, down = self._client.bytes_received, self._peer.bytes_received
        return f"<Tunnel {self._state.name} {up} bytes up, {down} bytes down>"
