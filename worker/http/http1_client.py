"""One connection to an upstream: a request goes out, and what comes back goes straight downstream.

    NEW ──► ACTIVE ◄──► IDLE
     │        │          │
     └────────┴──► CLOSED ◄┘

The head of an answer is given to llhttp, whole; the exchange is resumed with it. Body bytes are then passed on
as they come, without a step of the exchange in between: counted when there is a Content-Length, unchunked and
chunked anew when there is not. The exchange is resumed once more at the end.

The last head is remembered with what was made of it: peers repeat themselves (the same file, the same empty
answer), and an equal head needs neither parser nor look-up.
"""

from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from worker.errors import InvalidResponse, PeerClosed, ProxyError
from worker.exchange import Exchange
from worker.http.filtered import FilteredAnswer, extended_head, filtered_head, whole_head
from worker.http.framing import ChunkedDecoder, ChunkedError, chunk, last_chunk
from worker.http.kernel import read_rest
from worker.http.responses import attempts_line, read_response, response_head, switching_head
from worker.http.tunnel import Tunnel
from worker.http.upstream_connection import ACTIVE, CLOSED, IDLE, UpstreamConnection
from worker.messages import CHUNKED, NO_BODY, OF_LENGTH, UNTIL_CLOSE, Request, Response

if TYPE_CHECKING:
    from worker.context import WorkerContext
    from worker.http.http1_server import Http1Server
    from worker.http.relay import RequestBody
    from worker.upstream.endpoint import Origin
    from worker.upstream.pool import Pool

MAX_RESPONSE_HEAD_BYTES = 65_536
MAX_REST_BYTES = 1 << 20  # of an answer whose connection is lost


class _NoCallbacks:
    """A protocol for httptools without callbacks; naming them spares the parser ten failed look-ups."""

    on_message_begin = on_url = on_status = on_header = on_headers_complete = None
    on_body = on_message_complete = on_chunk_header = on_chunk_complete = None


NO_CALLBACKS = _NoCallbacks()


class Http1Client(UpstreamConnection):
    """An upstream connection that speaks HTTP/1."""

    __slots__ = (
        "_asks_upgrade",
        "_buffer",
        "_decoder",
        "_filtered",
        "_head",
        "_interim_bytes",
        "_remaining",
        "_remembered",
        "_response",
        "answered",
        "idle_since",
        "origin",
        "pool",
        "requests",
    )

    def __init__(self, context: "WorkerContext", pool: "Pool[Http1Client]") -> None:
        super().__init__(context)
        self.pool = pool
        self.origin: Origin | None = None  # with an endpoint: how the connection came about
        self.requests = 0
        self.idle_since = 0.0
        self.answered = False  # a byte of the answer has come
        self._buffer = b""
        self._response: Response | None = None  # of the exchange under way
        self._filtered: FilteredAnswer | None = None  # the answer under way, when plugins look at it
        self._remaining = 0
        self._decoder: ChunkedDecoder | None = None
        self._asks_upgrade = False
        self._interim_bytes = 0  # of interim responses before the answer
        self._head = b""  # the last head that was read …
        self._remembered: tuple[Response, bytes]  # … and what was made of it

    # the life of the connection

    @property
    def response(self) -> Response | None:
        """The answer to the last request, once its head has come."""
        return self._response

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange, if one is under way, as far as it got."""
        if exc is not None and self._state is ACTIVE:
            self._read_rest()
        if self._state is CLOSED:
            return
        exchange = self._exchange
        was_idle = self._state is IDLE
        self._state = CLOSED
        self._exchange = None
        self._context.upstream_connections.discard(self)
        if was_idle:
            self.pool.discard(self)
        if exchange is None or (self._filtered is not None and self._filtered.has_ended):
            return
        if self._response is not None and self._response.framing is UNTIL_CLOSE and exc is None:
            try:
                self._body_ended(exchange, b"")
            except ProxyError as error:  # of a plugin that sees the answer
                exchange.fail(error)
        else:
            exchange.fail(PeerClosed(f"{exchange.peer!r} closed the connection before its answer was complete"))

    def _read_rest(self) -> None:
        """Take the answer that came before a reset, when it was a write that has found out about the reset.

        A peer that refuses a body answers, and closes while more of the body is on its way to it.
        """
        if self.transport.get_extra_info("ssl_object") is None:
            data = read_rest(self.transport, MAX_REST_BYTES)
            if data:
                self.data_received(data)

    def eof_received(self) -> bool:
        """Close too: a peer that has said all cannot take another request."""
        if self._state is IDLE:
            self.pool.discard(self)
        return False

    # sending

    def send_request(self, exchange: Exchange, head: bytes) -> None:
        """Send a request head and expect its answer."""
        self._exchange = exchange
        self._state = ACTIVE
        self._response = None
        self.requests += 1
        self.answered = False
        self.last_active = self._context.now
        if exchange.downstream.write_paused:
            self.pause_reading()  # the client did not take what was there before
        self.transport.write(head)

    def send_upgrade(self, exchange: Exchange, head: bytes) -> None:
        """Send the head of a request that asks for another protocol; the connection carries no further one."""
        self._asks_upgrade = True
        self.send_request(exchange, head)

    # receiving

    def data_received(self, data: bytes) -> None:
        """Take bytes of an answer."""
        exchange = self._exchange
        if exchange is None:
            # Nobody asked: a peer that speaks out of turn cannot be trusted with the next request.
            self.pool.discard(self)
            self.close()
            return
        self.last_active = self._context.now
        try:
            if self._filtered is not None and self._filtered.has_ended:
                self._buffer = data  # nobody asked for it
            elif self._response is None:
                self._head_received(exchange, data)
            else:
                self._body_received(exchange, self._response, data)
        except ProxyError as error:
            exchange.fail(error)

    def _head_received(self, exchange: Exchange, data: bytes) -> None:
        self.answered = True
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        request = exchange.request
        assert request is not None  # noqa: S101 - only requests that were read are sent
        if self._head and data.startswith(self._head) and request.version_11 and not request.head_only:
            end = len(self._head)
            response, wire = self._remembered
        else:
            found = None
            while found is None:  # interim responses are passed over
                end = data.find(b"\r\n\r\n") + 4
                if end == 3 or end > MAX_RESPONSE_HEAD_BYTES:
                    self._head_incomplete(data)
                    return
                if self._asks_upgrade and data.startswith(b"HTTP/1.1 101 "):
                    self._switch_protocols(exchange, data[:end], data[end:])
                    return
                found = self._read_head(exchange, request, data[:end])
                if found is None:
                    data = data[end:]
            response, wire = found
        downstream = exchange.downstream
        self._response = response
        body = exchange.body
        if body is not None:
            _answered_before(body, downstream)
        if exchange.run is not None and exchange.run.chain.filters:
            self._filtered_received(exchange, response, wire, data[end:])
            return
        if response.framing is OF_LENGTH and len(data) - end == response.content_length:
            # The ordinary case: the whole answer in one read, so one write.
            exchange.bytes_sent = response.content_length
            exchange.status = response.status
            if not (request.version_11 and downstream.keep_alive):
                wire = response_head(response, request, downstream.keep_alive)
            downstream.transport.write(wire + data[end:])
            self._finish(exchange, response.keep_alive)
            return
        downstream.start_response(exchange, response, wire)
        if response.framing is NO_BODY:
            self._finish(exchange, response.keep_alive and len(data) == end)
            return
        self._remaining = response.content_length
        self._decoder = ChunkedDecoder() if response.framing is CHUNKED else None
        if len(data) > end:
            self._body_received(exchange, response, data[end:])

    def _filtered_received(self, exchange: Exchange, response: Response, wire: bytes, rest: bytes) -> None:
        """Let plugins see the answer on its way."""
        is_whole = response.framing is OF_LENGTH and len(rest) == response.content_length
        chain = exchange.run.chain  # type: ignore[union-attr]  # there are plugins
        if is_whole and chain.added:
            sent = extended_head(exchange, response, chain, wire)
            if sent:  # the ordinary case again: one write
                exchange.downstream.transport.write(sent + rest)
                self._finish(exchange, response.keep_alive)
                return
        head = filtered_head(exchange, response)
        if is_whole:
            sent = whole_head(exchange, response, head)
            if sent:
                exchange.downstream.transport.write(sent + rest)
                self._finish(exchange, response.keep_alive)
                return
        filtered = self._filtered = FilteredAnswer(exchange, response, head)
        if response.framing is NO_BODY:
            self._filtered_ended(exchange, filtered, b"", keep=response.keep_alive and not rest)
            return
        self._remaining = response.content_length
        self._decoder = ChunkedDecoder() if response.framing is CHUNKED else None
        if response.framing is OF_LENGTH and not self._remaining:
            self._filtered_ended(exchange, filtered, b"", keep=response.keep_alive and not rest)
        elif rest:
            self._body_received(exchange, response, rest)
            filtered.flush()
        else:
            filtered.flush()

    def _filtered_ended(self, exchange: Exchange, filtered: FilteredAnswer, trailers: bytes, keep: bool) -> None:
        """Finish when plugins have done with the body."""
        if filtered.end(trailers, lambda: self._finish(exchange, keep and not self._buffer)):
            self._finish(exchange, keep)

    def _head_incomplete(self, data: bytes) -> None:
        if len(data) > MAX_RESPONSE_HEAD_BYTES:
            raise InvalidResponse("response head too large")
        if not b"HTTP/1.".startswith(data[:7]):
            raise InvalidResponse("the peer does not speak HTTP/1")
        if data.count(b"\n") != data.count(b"\r\n"):
            raise InvalidResponse("bare LF in the response head")
        self._buffer = data

    def _switch_protocols(self, exchange: Exchange, head: bytes, rest: bytes) -> None:
        """Hand both connections over to a tunnel."""
        body = exchange.body
        if body is not None and not body.is_sent:
            raise InvalidResponse("the peer switched protocols before it had the request's body")
        wire = switching_head(head)
        downstream = exchange.downstream
        self.resume_reading()
        self._state = CLOSED  # as far as this protocol is concerned
        self._exchange = None
        self._context.upstream_connections.discard(self)
        exchange.status = 101
        downstream.transport.write(wire)
        is_websocket = b"\r\nupgrade: websocket\r\n" in wire.lower()
        early, has_ended = downstream.hand_over()
        Tunnel(self._context, exchange, self, downstream, is_websocket=is_websocket).open(early, has_ended, rest)

    def _read_head(self, exchange: Exchange, request: Request, head: bytes) -> tuple[Response, bytes] | None:
        """Parse a head; None for an interim response, which is not passed on."""
        parser = HttpResponseParser(NO_CALLBACKS)
        try:
            parser.feed_data(head)
        except HttpParserUpgrade as error:
            raise InvalidResponse("the peer switched protocols without being asked") from error
        except HttpParserError as error:
            raise InvalidResponse(f"invalid response head: {error}") from error
        status = parser.get_status_code()
        if status < 200:
            self._interim_bytes += len(head)
            if self._interim_bytes > MAX_RESPONSE_HEAD_BYTES:
                raise InvalidResponse("too many interim responses")
            return None
        self._interim_bytes = 0
        response = read_response(head, status, head.startswith(b"HTTP/1.1"), request, self._context.date_line)
        if status >= 500:
            response.head += attempts_line([*(exchange.attempts or ()), status])
        wire = response, response_head(response, request, keep_alive=True)
        if status < 500 and not request.head_only and request.version_11 and b"\r\nDate: " in head:
            self._head, self._remembered = head, wire
        return wire

    def _body_received(self, exchange: Exchange, response: Response, data: bytes) -> None:
        if response.framing is OF_LENGTH:
            surplus = len(data) > self._remaining
            if surplus:
                data = data[: self._remaining]
            self._remaining -= len(data)
            keep = response.keep_alive and not surplus
            if self._filtered is not None:
                self._filtered.feed(data)
                if not self._remaining:
                    self._filtered_ended(exchange, self._filtered, b"", keep)
                return
            exchange.downstream.transport.write(data)
            exchange.bytes_sent += len(data)
            if not self._remaining:
                self._finish(exchange, keep)
            return
        if self._decoder is None:
            self._pass_on(exchange, data)
            return
        try:
            piece, rest = self._decoder.feed(data)
        except ChunkedError as error:
            raise InvalidResponse(f"invalid chunked body: {error}") from error
        self._pass_on(exchange, piece)
        if self._decoder.finished:
            self._body_ended(exchange, self._decoder.trailers, keep=response.keep_alive and not rest)

    def _pass_on(self, exchange: Exchange, data: bytes) -> None:
        if self._filtered is not None:
            self._filtered.feed(data)
        elif data:
            exchange.downstream.transport.write(chunk(data) if exchange.downstream.chunked_response else data)
            exchange.bytes_sent += len(data)

    def _body_ended(self, exchange: Exchange, trailers: bytes, keep: bool = False) -> None:
        if self._filtered is not None:
            self._filtered_ended(exchange, self._filtered, trailers, keep)
            return
        if exchange.downstream.chunked_response:
            exchange.downstream.transport.write(last_chunk(trailers))
        self._finish(exchange, keep)

    def _finish(self, exchange: Exchange, keep: bool) -> None:
        self._exchange = None
        self._filtered = None
        if self.read_paused:
            self.resume_reading()
        body = exchange.body
        if keep and self._state is ACTIVE and (body is None or body.is_sent) and not self._asks_upgrade:
            self._state = IDLE
            self.idle_since = self._context.now
            if body is not None and self.transport.get_write_buffer_size():
                # Most likely all has been written, and the loop has only seen the answer first.
                self._context.loop.call_soon(self._release_if_sent)
            elif not self.pool.release(self):
                self.close()
        else:
            self.close()
        if exchange.waiting is self:
            exchange.resume()

    def _release_if_sent(self) -> None:
        """Give the connection back, unless the rest of its last request would precede the next one."""
        if self._state is IDLE and (self.transport.get_write_buffer_size() or not self.pool.release(self)):
            self.close()

    def __repr__(self) -> str:
        """Show peer, state and number of requests."""
        return f"<Http1Client {self.pool.key.host}:{self.pool.key.port} {self._state.name} {self.requests} requests>"


def _answered_before(body: "RequestBody", downstream: "Http1Server") -> None:
    """Keep nothing of a body that is answered; what is left of it is not waited for once the answer has ended."""
    body.release()
    if not body.complete:
        downstream.keep_alive = False
