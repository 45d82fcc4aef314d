"""One client connection: HTTP/1.0 and 1.1 requests in, answers out, one after the other.

    IDLE ──► HEAD ──► EXCHANGE ──► IDLE …
      │        │         ├───────► TUNNEL ──► CLOSED
      └────────┴─────────┴──► LINGERING ──► CLOSED

The end of a head is looked for first, so that llhttp is given one head and nothing behind it; it validates, and
none of its callbacks are used. What the fields mean (``framing``) is computed once for a block of field lines
and kept for the next request with the same bytes: clients that stay repeat themselves.

Pipelined requests wait in ``_pending`` until the exchange before them has ended. After an answer that leaves
part of the request unread the connection lingers: it is half closed and read until the client closes, since a
reset would destroy the answer on its way (RFC 9112 section 9.6).
"""

import asyncio
import socket
import struct
from collections.abc import Coroutine
from enum import IntEnum
from typing import TYPE_CHECKING, Any, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from worker.errors import (
    BadRequest,
    BodyTooLarge,
    ClientClosed,
    HeadersTooLarge,
    MethodNotAllowed,
    ProxyError,
    RequestTimeout,
    TargetTooLong,
    VersionNotSupported,
)
from worker.exchange import Exchange
from worker.http.client_address import Forwarded, Trust, forwarded_lines
from worker.http.framing import RequestFields, host_name
from worker.http.http1_client import NO_CALLBACKS
from worker.http.relay import RequestBody
from worker.http.responses import CONTINUE, is_delimited, response_head
from worker.http.serve import refuse, serve
from worker.http.target import normalised_path, split_absolute
from worker.messages import Framing, Request, Response

if TYPE_CHECKING:
    from worker.context import WorkerContext

WRITE_BUFFER_BYTES = 65_536
MAX_PENDING_BYTES = 65_536
DRAIN_IDLE_TIME = 1.0  # a client that asks nothing for so long is unlikely to ask just now
LINGERING_TIMEOUT = 5.0  # nginx's lingering_timeout
LINGERING_TIME = 30.0  # nginx's lingering_time


class State(IntEnum):
    """Where a connection stands."""

    IDLE = 0
    HEAD = 1
    EXCHANGE = 2
    LINGERING = 3
    TUNNEL = 4  # another protocol has the transport
    CLOSED = 5


class Http1Server(asyncio.Protocol):
    """A downstream connection."""

    __slots__ = (
        "_asks_keep_alive",
        "_block",
        "_context",
        "_exchange",
        "_fields",
        "_half_closed",
        "_head",
        "_parser",
        "_pending",
        "_read_paused",
        "_request",
        "_since",
        "_state",
        "_trust",
        "_upstream_fields",
        "_write_paused",
        "_written_at",
        "chunked_response",
        "coroutine",
        "keep_alive",
        "local_address",
        "local_port",
        "number",
        "peer_address",
        "peer_port",
        "remote_address",
        "remote_port",
        "requests",
        "transport",
        "until_close",
    )

    scheme = "http"

    def __init__(self, context: "WorkerContext") -> None:
        self._context = context
        self._state = State.IDLE
        self.transport: asyncio.Transport
        self._parser = HttpRequestParser(NO_CALLBACKS)
        self._pending = b""
        self._exchange: Exchange | None = None
        self._head = b""  # the last head without a body behind it …
        self._request: Request  # … and what was read in it
        self._asks_keep_alive = False
        self._block: bytes | None = None  # the field lines of the last head …
        self._fields: RequestFields
        self._upstream_fields = b""  # … and what is sent on of them
        self._since = 0.0  # coarse: when the state began, or bytes of a body last came
        self._written_at: tuple[int, float] = (0, 0.0)  # bytes that waited, and since when it was not fewer
        self._read_paused = False
        self._write_paused = False
        self._half_closed = False  # the client sends nothing more, but reads
        self.coroutine: Coroutine[None, Any, None]  # waits for a request, or carries one
        self.chunked_response = False
        self.until_close = False  # only the end of the connection tells the client where the answer ends
        self.keep_alive = True
        self.number = 0  # of the worker's connections
        self.peer_address = ""  # at the other end of the connection …
        self.peer_port = 0
        self.remote_address = ""  # … and the client's, which a peer that is believed may name
        self.remote_port = 0
        self.local_address = ""
        self.local_port = 0
        self._trust: Trust
        self.requests = 0

    # the life of the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a client in, unless there are too many."""
        context = self._context
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        local = transport.get_extra_info("sockname")
        if not peer or not local or not context.admit(self):
            self._state = State.CLOSED
            self.transport.abort()
            return
        self.number = context.accepted
        self.peer_address = self.remote_address = peer[0].removeprefix("::ffff:")
        self.peer_port = self.remote_port = peer[1]
        self.local_address = local[0].removeprefix("::ffff:")
        self.local_port = local[1]
        self._trust = context.trusts.of(self.peer_address)
        self._since = context.now
        self.coroutine = serve(context, self)
        self.coroutine.send(None)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)

    @property
    def context(self) -> "WorkerContext":
        """What the connections of the worker share."""
        return self._context

    @property
    def keeps_forwarded_for(self) -> bool:
        """Whether the client's own X-Forwarded-For counts."""
        return self._trust.forwarded is not Forwarded.DROPPED

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the client up, and with it the exchange under way."""
        if self._state is State.CLOSED and self not in self._context.downstream_connections:
            return
        self._state = State.CLOSED
        self._context.dismiss(self)
        exchange = self._exchange
        if exchange is not None:
            exchange.fail(ClientClosed("client closed the connection"))
        self.coroutine.close()

    def eof_received(self) -> bool:
        """Finish the exchange under way for a client that has only closed its sending side."""
        if self._state is State.EXCHANGE and self._exchange is not None:
            body = self._exchange.body
            self._half_closed = body is None or body.complete
        elif self._state is State.HEAD:
            self._half_closed = b"\r\n\r\n" in self._pending  # a whole request waits for its turn
        return self._half_closed

    def close(self) -> None:
        """Close once what was written has been sent; the janitor aborts when it is not taken."""
        if self._state is not State.CLOSED:
            self._state = State.CLOSED
            self._since = self._context.now
            self.transport.close()

    def abort(self) -> None:
        """Close at once: the client must see that the answer is not whole."""
        self.keep_alive = False
        if self._state is not State.CLOSED:
            self._state = State.CLOSED
            if self.until_close and self._exchange is not None:
                _reset_on_close(self.transport)
            self.transport.abort()

    def drain(self) -> None:
        """Close after the answer under way, or the next one; the janitor closes those that ask nothing more.

        A client whose answer has begun without ``Connection: close`` may send its next request at any moment, and so
        may an idle one: to close either of them now would lose that request.
        """
        if self._exchange is not None and not self._exchange.status:
            self.keep_alive = False

    def _linger(self) -> None:
        self._state = State.LINGERING
        self._since = self._context.now
        self._written_at = (0, self._since + LINGERING_TIME)
        self._pending = b""
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.resume_reading()

    # reading

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        state = self._state
        if state is State.IDLE:
            self._head_received(data)
        elif state is State.EXCHANGE:
            self._more_received(data)
        elif state is State.HEAD:
            self._head_received(self._pending + data)
        elif state is State.LINGERING:
            self._since = self._context.now

    def _head_received(self, data: bytes) -> None:
        exchange = Exchange(self, self._context.time())
        if data == self._head:
            request = self._request
            self._pending = b""
            self.keep_alive = self._asks_keep_alive and not self._context.draining
        else:
            if data[0] in b"\r\n":
                data = data.lstrip(b"\r\n")  # RFC 9112 section 2.2: empty lines before the request line
            end = data.find(b"\r\n\r\n") + 4
            if end == 3:
                self._head_incomplete(data)
                return
            head, rest = (data, b"") if end == len(data) else (data[:end], data[end:])
            self._pending = b""
            self._since = self._context.now
            try:
                request = self._read_head(head)
                if request.framing is not Framing.NONE:
                    exchange.request = request
                    rest = self._body_begun(exchange, request, rest)
            except ProxyError as error:
                self._refuse(exchange, error)
                return
            self._pending = rest
        exchange.request = request
        self._exchange = exchange
        self._state = State.EXCHANGE
        self.coroutine.send(exchange)

    def _head_incomplete(self, data: bytes) -> None:
        self._pending = data
        if self._half_closed:
            self.close()
            return
        if not data:
            self._state = State.IDLE
            return
        if self._state is State.IDLE:
            self._state = State.HEAD
            self._since = self._context.now
        limit = self._context.settings.large_client_header_buffers
        error: ProxyError | None = None
        if len(data) > limit:
            error = HeadersTooLarge("head") if b"\n" in data[:limit] else TargetTooLong("request line")
        elif data.count(b"\n") != data.count(b"\r\n"):
            error = BadRequest("bare LF in the head")
        if error is not None:
            self._refuse(Exchange(self, self._context.time()), error)

    def _read_head(self, head: bytes) -> Request:
        self._head = b""
        if len(head) > self._context.settings.large_client_header_buffers:
            raise HeadersTooLarge(f"request head of {len(head)} bytes")
        try:
            self._parser.feed_data(head)
        except HttpParserUpgrade:
            self._parser = HttpRequestParser(NO_CALLBACKS)
        except HttpParserError as error:
            raise BadRequest(f"{error}") from error
        line_end = head.find(b"\r\n")
        parts = head[:line_end].split(b" ")
        if len(parts) != 3:
            raise BadRequest("invalid request line")
        method, target, version = parts
        block = head[line_end:]
        if block != self._block:
            self._block_received(block)
        fields = self._fields
        version_11 = version == b"HTTP/1.1"
        if not version_11:
            _check_version(version, fields)
        elif not fields.has_host:
            raise BadRequest("no Host field")
        self._asks_keep_alive = not fields.close and (version_11 or fields.keep_alive)
        self.keep_alive = self._asks_keep_alive and not self._context.draining
        host, name = fields.host, fields.host_name
        if target[:1] != b"/":
            host, name, target = self._other_form(method, target, host, name)
        framing = _framing_of(fields)
        path = matched = normalised_path(target)
        rules = self._context.path_rules
        if rules is not None:
            target, path, matched = rules.apply(target, path)
        length = fields.content_length or 0
        upstream_fields = self._upstream_fields
        request = Request(method, target, path, host, name, block, version_11, framing, length, upstream_fields)
        request.path_matched = matched
        if fields.upgrade and version_11:
            request.upgrade = fields.upgrade
        if framing is Framing.NONE:
            self._head, self._request = head, request
        return request

    def _block_received(self, block: bytes) -> None:
        """Read field lines that are not those of the request before."""
        self._block = None
        self._fields = RequestFields(block)
        real_ip = self._trust.real_ip
        if real_ip is not None:
            self.remote_address, self.remote_port = real_ip.client(block, self.peer_address, self.peer_port)
        self._upstream_fields = self._fields_for_upstream(self._fields, block, self._fields.host)
        self._block = block

    def _fields_for_upstream(self, fields: RequestFields, block: bytes, host: bytes) -> bytes:
        """Compose the field lines that go upstream (upstreams.md section 6), up to the empty line."""
        local = f"[{self.local_address}]" if ":" in self.local_address else self.local_address
        forwarded = forwarded_lines(
            fields,
            block,
            self._trust.forwarded,
            self.remote_address.encode(),
            self.scheme.encode(),
            host or local.encode(),
            port_of(host) or b"%d" % self.local_port,
        )
        framing = b""
        if fields.chunked:
            framing = b"Transfer-Encoding: chunked\r\n"
        elif fields.content_length is not None:
            framing = b"Content-Length: %d\r\n" % fields.content_length
        if fields.chunked and fields.trailer:
            framing += b"Trailer: %b\r\n" % fields.trailer
        return b"%b%b%b\r\n" % (fields.passed_on, forwarded, framing)

    def _other_form(self, method: bytes, target: bytes, host: bytes, name: bytes) -> tuple[bytes, bytes, bytes]:
        """Read a target that is not in origin-form; the authority in it replaces Host (RFC 9112 section 3.2.2)."""
        if method == b"CONNECT":
            raise MethodNotAllowed("CONNECT")
        if target == b"*":
            if method != b"OPTIONS":
                raise BadRequest("target * with a method other than OPTIONS")
            return host, name, target
        authority, target = split_absolute(target)
        name = host_name(authority)
        self._upstream_fields = self._fields_for_upstream(self._fields, self._block or b"", authority)
        self._block = None  # what is sent on holds for this target only
        return authority, name, target

    def _body_begun(self, exchange: Exchange, request: Request, rest: bytes) -> bytes:
        # llhttp stands at the body now, which it is not to see.
        self._parser = HttpRequestParser(NO_CALLBACKS)
        limit = self._context.settings.client_max_body_size
        if limit and request.content_length > limit:
            raise BodyTooLarge(f"body of {request.content_length} bytes")
        expects_continue = self._fields.expects_continue and request.version_11
        chunked = request.framing is Framing.CHUNKED
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
                body.ended()
                return
        if data:
            self._pending += data
            if len(self._pending) > MAX_PENDING_BYTES:
                self.pause_reading()

    def _refuse(self, exchange: Exchange, error: ProxyError) -> None:
        """Answer a head that starts no exchange, and read nothing more from this client."""
        self._state = State.EXCHANGE
        self.keep_alive = False
        self._exchange = exchange
        refuse(self._context, exchange, error)
        if self._context.access_log is not None:
            self._context.access_log.record(exchange)
        self.exchange_ended(exchange)

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
        request = exchange.request
        assert request is not None  # noqa: S101 - only requests that were read are answered by an upstream
        exchange.status = response.status
        self.chunked_response = response.framing >= Framing.CHUNKED and request.version_11
        if not (request.version_11 and self.keep_alive):
            wire = response_head(response, request, self.keep_alive)
            if not is_delimited(response, request):
                self.keep_alive = False
                self.until_close = True
        self.transport.write(wire)

    def hand_over(self) -> tuple[bytes, bool]:
        """Leave the transport to another protocol.

        Returns:
            What the client has sent behind its request, and whether it sends nothing more.
        """
        self._state = State.TUNNEL
        self._write_paused = False
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
        if self._state is not State.EXCHANGE:
            return
        unread = exchange.request is None or (body is not None and not body.complete)
        if self.keep_alive and not unread:
            self._state = State.HEAD if self._pending else State.IDLE
            self._since = self._context.now
            if self._write_paused:
                self.pause_reading()  # who does not take the answers gets no more of them
            elif self._pending or self._read_paused:
                self._go_on()
            if self._half_closed and not self._pending:
                self.close()
        elif unread:
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
        if self._state is State.HEAD and self._pending and not self._write_paused:
            self._head_received(self._pending)

    # flow control

    def pause_reading(self) -> None:
        """Let the client wait."""
        if not self._read_paused and self._state is not State.CLOSED:
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the client again."""
        if self._read_paused and self._state is not State.CLOSED and len(self._pending) <= MAX_PENDING_BYTES:
            self._read_paused = False
            self._since = self._context.now
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        """Let the peer wait: the client takes bytes more slowly than it sends them."""
        self._write_paused = True
        self._written_at = self.transport.get_write_buffer_size(), self._context.now
        if self._exchange is not None and self._exchange.connection is not None:
            self._exchange.connection.pause_reading()

    def resume_writing(self) -> None:
        """Read from the peer again."""
        self._write_paused = False
        if self._state <= State.HEAD:
            self._go_on()
        elif self._exchange is not None and self._exchange.connection is not None:
            self._exchange.connection.resume_reading()

    # waiting too long

    def check_deadlines(self, now: float) -> None:
        """Close, or refuse, when the client has taken longer than the settings allow; called by the janitor."""
        settings = self._context.settings
        waited = now - self._since
        if self._state is State.TUNNEL:
            return
        if self._write_paused:
            self._check_progress(now, settings.send_timeout)
        elif self._state is State.IDLE:
            limit = settings.keepalive_timeout if self.requests else settings.client_header_timeout
            if waited > (min(limit, DRAIN_IDLE_TIME) if self._context.draining else limit):
                self.close()
        elif self._state is State.HEAD:
            if waited > settings.client_header_timeout:
                self._refuse(Exchange(self, now), RequestTimeout("request head not complete in time"))
        elif self._state is State.LINGERING:
            if waited > LINGERING_TIMEOUT or now > self._written_at[1]:
                self.abort()
        elif self._state is State.CLOSED:
            if waited > settings.send_timeout:
                self.transport.abort()
        elif self._exchange is not None and waited > settings.client_body_timeout and not self._read_paused:
            body = self._exchange.body
            if body is not None and not body.complete and not body.is_withheld:
                self._exchange.fail(RequestTimeout("request body not complete in time"))

    def _check_progress(self, now: float, send_timeout: float) -> None:
        waiting, since = self._written_at
        size = self.transport.get_write_buffer_size()
        if size != waiting:
            self._written_at = size, now
        elif now - since > send_timeout:
            self.abort()

    def __repr__(self) -> str:
        """Show client, state and number of requests."""
        return f"<Http1Server {self.remote_address} {self._state.name} {self.requests} requests>"


def read_request(context: "WorkerContext", head: bytes, remote_address: str) -> Exchange:
    """Return the exchange that a head from a client would begin; nothing is counted, and nothing answered.

    Raises:
        DownstreamError: the head would be refused.
    """
    connection = Http1Server(context)
    connection.peer_address = connection.remote_address = remote_address
    listener = context.settings.addresses()[0]
    connection.local_address, connection.local_port = listener.host, listener.port
    connection._trust = context.trusts.of(remote_address)
    exchange = Exchange(connection, context.time())
    exchange.request = connection._read_head(head)
    return exchange


def port_of(host: bytes) -> bytes:
    """Return the port in a Host value, empty when there is none."""
    return host.rpartition(b"]")[2].partition(b":")[2]


def _reset_on_close(transport: asyncio.Transport) -> None:
    """Let the connection end with a reset, so that it cannot be taken for the end of the answer."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _framing_of(fields: RequestFields) -> Framing:
    if fields.chunked:
        return Framing.CHUNKED
    return Framing.LENGTH if fields.content_length else Framing.NONE


def _check_version(version: bytes, fields: RequestFields) -> None:
    if version != b"HTTP/1.0":
        raise (VersionNotSupported(f"{version!r}") if version.startswith(b"HTTP/") else BadRequest("invalid version"))
    if fields.chunked:
        raise BadRequest("Transfer-Encoding in an HTTP/1.0 request")
