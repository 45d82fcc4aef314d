"""One client connection: HTTP/1.0 and 1.1 requests in, answers out, one after the other.

    IDLE ──► HEAD ──► EXCHANGE ──► IDLE …
      │        │         ├───────► TUNNEL ──► CLOSED
      └────────┴─────────┴──► LINGERING ──► CLOSED

The end of a head is looked for first; what the head says is read by the connection's ``RequestReader``, unless it
is the last one over again.

Pipelined requests wait in ``_pending`` until the exchange before them has ended. After its last answer the connection
lingers (``lingering``), unless the client has said that it will send nothing more.

In a worker that drains, the next answer says ``Connection: close``, unless more requests wait behind it; see
docs/discussion/draining.md.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from worker.errors import (
    BadRequest,
    BodyTooLarge,
    ClientClosed,
    HeadersTooLarge,
    ProxyError,
    RequestTimeout,
    TargetTooLong,
)
from worker.exchange import Exchange
from worker.http.answering import refuse
from worker.http.client_connection import (
    CLOSED,
    EXCHANGE,
    HEAD,
    IDLE,
    MAX_PENDING_BYTES,
    TUNNEL,
    ClientConnection,
)
from worker.http.kernel import in_receive_queue
from worker.http.relay import RequestBody
from worker.http.request_reader import RequestReader
from worker.http.responses import CONTINUE, is_delimited, response_head
from worker.http.serve import serve
from worker.messages import CHUNKED, Request, Response

if TYPE_CHECKING:
    from worker.context import WorkerContext

WRITE_BUFFER_BYTES = 65_536
MAX_WHOLE_BODY_BYTES = 16_384  # of bodies that are handled as part of the head they come with
_STATE = attrgetter("_state")


class Http1Server(ClientConnection):
    """A downstream connection that speaks HTTP/1."""

    __slots__ = ("chunked_response", "coroutine")

    def __init__(self, context: "WorkerContext") -> None:
        super().__init__(context)
        self.coroutine: Coroutine[None, Any, None]  # waits for a request, or carries one
        self.chunked_response = False

    # the life of the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a client in, unless there are too many."""
        context = self._context
        self.transport = context.late(transport)
        peer = transport.get_extra_info("peername")
        local = transport.get_extra_info("sockname")
        if not peer or not local or not context.admit(self):
            self._state = CLOSED
            self.transport.abort()
            return
        self.number = context.accepted
        ends = (peer[0].removeprefix("::ffff:"), peer[1]), (local[0].removeprefix("::ffff:"), local[1])
        self.reader = RequestReader(context, self.scheme, *ends)
        self._since = context.now
        self.coroutine = serve(context, self)
        self.coroutine.send(None)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the client up, and with it the exchange under way."""
        if self._state is CLOSED and self not in self._context.downstream_connections:
            return
        self._state = CLOSED
        self._context.dismiss(self)
        exchange = self._exchange
        if exchange is not None:
            exchange.fail(ClientClosed("client closed the connection"))
        self.coroutine.close()

    def eof_received(self) -> bool:
        """Finish the exchange under way for a client that has only closed its sending side."""
        if self._state is EXCHANGE and self._exchange is not None:
            body = self._exchange.body
            self._half_closed = body is None or body.complete
        elif self._state is HEAD:
            self._half_closed = b"\r\n\r\n" in self._pending  # a whole request waits for its turn
        return self._half_closed

    # reading

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        state = self._state
        if state is IDLE:
            self._head_received(data)
        elif state is EXCHANGE:
            self._more_received(data)
        elif state is HEAD:
            data, self._pending = self._pending + data, b""
            self._head_received(data)

    def _head_received(self, data: bytes) -> None:
        context = self._context
        exchange = Exchange(self, context.time())
        reader = self.reader
        if data == reader.head:
            exchange.request = reader.request
        else:
            if data[0] in b"\r\n":
                data = data.lstrip(b"\r\n")  # RFC 9112 section 2.2: empty lines before the request line
            end = data.find(b"\r\n\r\n") + 4
            if end == 3:
                self._head_incomplete(data)
                return
            self._since = context.now
            try:
                if end == len(data):
                    request = exchange.request = reader.read(data)
                    rest = b""
                else:
                    request = exchange.request = reader.read(data[:end])
                    rest = data[end:]
                if not reader.head:  # so there is a body
                    rest = self._body_begun(exchange, request, rest)
            except ProxyError as error:
                self._refuse(exchange, error)
                return
            self._pending = rest
        self.keep_alive = self._may_keep_alive() if context.draining else reader.asks_keep_alive
        self._exchange = exchange
        self._state = EXCHANGE
        self.coroutine.send(exchange)

    def _head_incomplete(self, data: bytes) -> None:
        self._pending = data
        if self._half_closed:
            self.close()
            return
        if not data:
            self._state = IDLE
            return
        if self._state is IDLE:
            self._state = HEAD
            self._since = self._context.now
        limit = self._context.settings.large_client_header_buffers
        error: ProxyError | None = None
        if len(data) > limit:
            error = HeadersTooLarge("head") if b"\n" in data[:limit] else TargetTooLong("request line")
        elif data.count(b"\n") != data.count(b"\r\n"):
            error = BadRequest("bare LF in the head")
        if error is not None:
            self._refuse(Exchange(self, self._context.time()), error)
        elif self._read_paused:
            self._read_on()  # a head may be larger than what is taken of requests that are sent ahead

    def _body_begun(self, exchange: Exchange, request: Request, rest: bytes) -> bytes:
        """Take what has come of a body; returns what follows it."""
        length = request.content_length
        limit = self._context.settings.client_max_body_size
        if limit and length > limit:
            raise BodyTooLarge(f"body of {length} bytes")
        if length <= len(rest) and 0 < length <= MAX_WHOLE_BODY_BYTES:
            exchange.buffered_body = rest[:length]
            return rest[length:]
        expects_continue = self.reader.expects_continue
        chunked = request.framing is CHUNKED
        body = exchange.body = RequestBody(self._context, exchange, request, chunked, expects_continue)
        return body.feed(rest) if rest else b""

    def _more_received(self, data: bytes) -> None:
        """Take bytes while an exchange is under way: its body, or requests that were sent ahead."""
        exchange = self._exchange
        body = exchange.body if exchange is not None else None
        if exchange is not None and body is not None and not body.complete:
            self._since = self._context.now
            try:
                data = body.feed(data)
            except ProxyError as error:
                exchange.fail(error)
                return
            if body.complete:
                self._pending += data
                if self._context.draining:
                    self.drain_changed()
                body.ended()
                return
        if data:
            self._pending += data
            if len(self._pending) > MAX_PENDING_BYTES:
                self.pause_reading()
            if self._context.draining:
                self.drain_changed()

    def _refuse(self, exchange: Exchange, error: ProxyError) -> None:
        """Answer a head that starts no exchange, and read nothing more from this client."""
        self._state = EXCHANGE
        self.keep_alive = False
        self._exchange = exchange
        refuse(self._context, exchange, error)
        if self._context.access_log is not None:
            self._context.access_log.record(exchange)
        self.exchange_ended(exchange)

    def _refuse_late_head(self, now: float) -> None:
        self._refuse(Exchange(self, now), RequestTimeout("request head not complete in time"))

    # answering

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""
        self.transport.write(data)

    def send_continue(self) -> None:
        """Tell a client that waits for it to send its body (RFC 9110 section 10.1.1)."""
        self._since = self._context.now
        self.transport.write(CONTINUE)

    def start_response(self, exchange: Exchange, response: Response, wire: bytes) -> None:
        """Send a response head; ``wire`` is its form for HTTP/1.1 on a connection that stays open."""
        self.transport.write(self.begin_response(exchange, response, wire))

    def begin_response(self, exchange: Exchange, response: Response, wire: bytes) -> bytes:
        """Return a response head that is about to be sent, as the client understands it; ``wire`` as above."""
        request = exchange.request
        assert request is not None  # noqa: S101 - only requests that were read are answered by an upstream
        exchange.status = response.status
        self.chunked_response = response.framing >= CHUNKED and request.version_11
        if not (request.version_11 and self.keep_alive):
            wire = response_head(response, request, self.keep_alive)
            if not is_delimited(response, request):
                self.keep_alive = False
                self.until_close = True
        return wire

    def hand_over(self) -> tuple[bytes, bool]:
        """Leave the transport to another protocol.

        Returns:
            What the client has sent behind its request, and whether it sends nothing more.
        """
        self._state = TUNNEL
        early, self._pending = self._pending, b""
        self.resume_reading()
        return early, self._half_closed

    def exchange_ended(self, exchange: Exchange) -> None:
        """Go on to the next request, or close."""
        self._exchange = None
        self.requests += 1
        self._context.requests += 1
        body = exchange.body
        if body is not None:
            body.close()
            exchange.body = None  # they know each other, and the collector comes by rarely
        if self._state is not EXCHANGE:
            return
        unread = exchange.request is None or (body is not None and not body.complete)
        if self.keep_alive and not unread:
            self._state = HEAD if self._pending else IDLE
            self._since = self._context.now
            if self.write_paused:
                self.pause_reading()  # who does not take the answers gets no more of them
            elif self._pending or self._read_paused:
                self._go_on()
            if self._half_closed and not self._pending:
                self.close()
        elif unread or self._pending or self.reader.asks_keep_alive or in_receive_queue(self.transport):
            self._linger()
        else:
            self.close()

    def _go_on(self) -> None:
        """Turn to what the client has sent ahead, and to what it still will."""
        self.resume_reading()
        if self._pending:
            # From the loop, not from here: a thousand requests in one packet must not nest.
            self._context.loop.call_soon(self._next)

    def _next(self) -> None:
        if self._state is HEAD and self._pending and not self.write_paused:
            data, self._pending = self._pending, b""
            self._head_received(data)

    def __repr__(self) -> str:
        """Show number, state and number of requests."""
        return f"<Http1Server {self.number} {self._state.name} {self.requests} requests>"


def count_states(connections: Iterable[Http1Server]) -> tuple[int, int]:
    """Count the connections that are idle, and the tunnels; in one step, 25 ns each."""
    states = list(map(_STATE, connections))
    return states.count(IDLE), states.count(TUNNEL)


def read_request(context: "WorkerContext", head: bytes, remote_address: str) -> Exchange:
    """Return the exchange that a head from a client would begin; nothing is counted, and nothing answered.

    Raises:
        DownstreamError: the head would be refused.
    """
    connection = Http1Server(context)
    listener = context.settings.addresses()[0]
    connection.reader = RequestReader(context, connection.scheme, (remote_address, 0), (listener.host, listener.port))
    exchange = Exchange(connection, context.time())
    exchange.request = connection.reader.read(head)
    return exchange
