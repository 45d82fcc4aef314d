"""One connection to the control interface: HTTP/1.0 and 1.1 requests in, answers out, one after the other.

    IDLE ──► RECEIVING ──► ANSWERING ──► IDLE …
      │          │             │
      └──────────┴─────────────┴──► LINGERING ──► CLOSED

It is for few clients and small requests, and need not be fast: httptools calls back for every field, each state has
a timer, and a body is skipped. What is received while an answer is under way waits in a short queue. A connection
whose request could not be read is half closed after the answer and read for a moment more, since a reset would
destroy the answer on its way (RFC 9112 section 9.6).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from email.utils import formatdate
from enum import Enum
from http import HTTPStatus
from typing import Protocol, cast
from urllib.parse import unquote

from httptools import (
    HttpParserError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
    parse_url,
)

from worker.api.messages import Answer, Outcome, Pending, Portions, Request, failure
from worker.api.turns import Turn, Turns

log = logging.getLogger("propylon.control")

MAX_HEAD_BYTES = 8_192
MAX_BODY_BYTES = 65_536
MAX_QUEUE = 16  # requests sent ahead
WRITE_BUFFER_BYTES = 65_536
RECEIVE_TIMEOUT = 10.0  # a whole request, from its first byte
SEND_TIMEOUT = 10.0  # the client takes nothing of what waits for it
IDLE_TIMEOUT = 60.0
DRAIN_IDLE_TIME = 1.0
LINGERING_TIME = 2.0
FIRST_POLL, LONGEST_POLL = 0.005, 0.05  # between two looks at something that is waited for


class State(Enum):
    """Where a connection stands."""

    IDLE = "idle"
    RECEIVING = "receiving"
    ANSWERING = "answering"
    LINGERING = "lingering"
    CLOSED = "closed"


class Owner(Protocol):
    """What a connection needs of its server."""

    draining: bool
    turns: Turns

    def admit(self, connection: "ControlConnection") -> bool:
        """Count a connection in; False when there are too many."""

    def dismiss(self, connection: "ControlConnection") -> None:
        """Count it out."""

    def handle(self, request: Request) -> Outcome:
        """Decide what to answer."""


class ControlConnection(asyncio.Protocol):
    """A client of the control interface."""

    def __init__(self, owner: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.state = State.IDLE
        self._owner = owner
        self._loop = loop
        self._transport: asyncio.Transport
        self._parser = HttpRequestParser(self)
        self._queue: deque[Request | Answer] = deque()  # an Answer: to what could not be read; the last one
        self._timer: asyncio.TimerHandle | None = None
        self._step: asyncio.Handle | Turn | None = None  # what goes on with the answer
        self._pieces: Iterator[bytes] | None = None
        self._is_chunked = False
        self._write_paused = False
        self._read_paused = False
        self._deaf = False  # nothing is read any more
        self._keep_alive = True
        # of the request being received
        self._in_message = False
        self._in_head = False
        self._received = 0  # bytes of its head
        self._body_bytes = 0
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []

    # the life of the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a client in, unless there are too many."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if self._owner.admit(self):
            self._become(State.IDLE, RECEIVE_TIMEOUT)
        else:
            self._refuse(failure(503, "too many connections to the control address"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything."""
        self._become(State.CLOSED)
        self._stop_answering()
        self._queue.clear()
        self._owner.dismiss(self)

    def eof_received(self) -> bool:
        """Finish the answer under way for a client that has closed its sending side."""
        self._deaf = True
        return self.state is State.ANSWERING

    def drain(self) -> None:
        """Close after the answer under way, or soon when nothing is asked."""
        if self.state is State.IDLE:
            self._become(State.IDLE, DRAIN_IDLE_TIME)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _become(self, state: State, seconds: float = 0.0) -> None:
        """Go to a state, and leave it by ``_timed_out`` after so many seconds; 0: never."""
        self.state = state
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._timed_out) if seconds else None

    def _timed_out(self) -> None:
        self._timer = None
        if self.state is State.RECEIVING:
            self._refuse(failure(408, f"the request was not complete within {RECEIVE_TIMEOUT:g} s"))
        elif self.state is State.IDLE:
            self._close()
        else:
            self._transport.abort()

    def _close(self) -> None:
        """Close when what was written has been taken."""
        self._deaf = True
        self._become(State.LINGERING, SEND_TIMEOUT)
        self._transport.close()

    # reading

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._deaf:
            return
        if self.state is State.IDLE:
            self._become(State.RECEIVING, RECEIVE_TIMEOUT)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._deaf = True  # no other protocol is spoken here; the request itself is answered
        except HttpParserError as error:
            self._unreadable(failure(400, f"no HTTP request: {error}"))
        if self._is_head_too_long(data):
            self._unreadable(failure(431, f"the head has more than {MAX_HEAD_BYTES} bytes"))
        if len(self._queue) > MAX_QUEUE and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()
        if self.state is State.RECEIVING:
            self._next()

    def _is_head_too_long(self, data: bytes) -> bool:
        """Tell whether a head that has not ended is too long already; ``data`` are the last bytes of it."""
        if self._in_head:
            before = data.rfind(b"\r\n\r\n") + 4  # of requests that came with it
            self._received += len(data) - (before if before > 3 else 0)
        return self._in_head and self._received > MAX_HEAD_BYTES

    def on_message_begin(self) -> None:
        """Start anew."""
        self._in_message = self._in_head = True
        self._received = self._body_bytes = 0
        self._url, self._fields = b"", []

    def on_url(self, url: bytes) -> None:
        """Take the target, or a part of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field."""
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """See whether the head is small enough."""
        self._in_head = False
        size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in self._fields)
        if size > MAX_HEAD_BYTES:
            self._unreadable(failure(431, f"the head has more than {MAX_HEAD_BYTES} bytes"))

    def on_body(self, body: bytes) -> None:
        """Skip it."""
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._unreadable(failure(413, f"the body has more than {MAX_BODY_BYTES} bytes; none is needed"))

    def on_message_complete(self) -> None:
        """Put the request in the queue."""
        self._in_message = False
        if not self._deaf:
            self._queue.append(self._read_request())

    def _read_request(self) -> Request | Answer:
        version_11 = self._parser.get_http_version() == "1.1"
        hosts = tuple(value.decode("latin-1").strip() for name, value in self._fields if name == b"host")
        origin, accept = self._field(b"origin"), self._field(b"accept")
        try:
            target = parse_url(self._url)
            path = unquote((target.path or b"/").decode("ascii"), errors="strict")
            query = (target.query or b"").decode("ascii")
        except (HttpParserInvalidURLError, UnicodeDecodeError):
            return failure(400, "the target is no URL")
        method = self._parser.get_method().decode("ascii")
        return Request(method, path, query, hosts, origin, version_11, self._parser.should_keep_alive(), accept)

    def _field(self, wanted: bytes) -> str:
        return next((value.decode("latin-1") for name, value in self._fields if name == wanted), "")

    def _unreadable(self, answer: Answer) -> None:
        """Answer this after all that was asked before it, and read nothing more."""
        if not self._deaf:
            self._deaf = True
            self._queue.append(answer)

    # answering

    def _next(self) -> None:
        """Go on with what was asked next."""
        if not self._queue:
            self._await_request()
            return
        asked = self._queue.popleft()
        if self._read_paused and len(self._queue) <= MAX_QUEUE // 2:
            self._read_paused = False
            self._transport.resume_reading()
        if isinstance(asked, Answer):
            self._refuse(asked)
            return
        self._become(State.ANSWERING)
        self._keep_alive = asked.keep_alive and not (self._owner.draining or (self._deaf and not self._queue))
        self._answer(asked, self._owner.handle(asked))

    def _await_request(self) -> None:
        if self._deaf or not self._keep_alive:
            self._close()
        elif self._in_message:
            self._become(State.RECEIVING, RECEIVE_TIMEOUT)
        else:
            self._become(State.IDLE, DRAIN_IDLE_TIME if self._owner.draining else IDLE_TIMEOUT)

    def _answer(self, request: Request, outcome: Outcome) -> None:
        if isinstance(outcome, Pending):
            self._poll(request, outcome.poll, FIRST_POLL)
        elif isinstance(outcome, Portions):
            self._begin_portions(request, outcome)
        else:
            head = response_head(outcome.status, len(outcome.body), self._keep_alive, request, outcome.fields)
            self._transport.write(head if request.method == "HEAD" else head + outcome.body)
            self._answered()

    def _poll(self, request: Request, poll: Callable[[float], Answer | None], pause: float) -> None:
        self._step = None
        answer = poll(self._loop.time())
        if answer is not None:
            self._answer(request, answer)
            return
        longer = min(2 * pause, LONGEST_POLL)
        self._step = self._loop.call_later(pause, self._poll, request, poll, longer)

    def _begin_portions(self, request: Request, portions: Portions) -> None:
        self._is_chunked = request.version_11
        self._keep_alive = self._keep_alive and self._is_chunked
        head = response_head(portions.status, None, self._keep_alive, request, (), portions.content_type)
        self._transport.write(head)
        if request.method == "HEAD":
            self._answered()
        else:
            self._pieces = portions.pieces
            self._step = self._owner.turns.call(self._send_portion)

    def _send_portion(self) -> None:
        """Make and send one portion; the next one when it is our turn again."""
        self._step = None
        if self._write_paused or self._pieces is None:
            return
        try:
            piece = next(self._pieces, None)
        except Exception:
            log.exception("an answer of the control interface broke off")
            self._transport.abort()
            return
        if piece is None:
            self._pieces = None
            if self._is_chunked:
                self._transport.write(b"0\r\n\r\n")
            self._answered()
            return
        if piece:
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece)
        self._step = self._owner.turns.call(self._send_portion)

    def pause_writing(self) -> None:
        """Make no more portions for now; the client must go on within ``SEND_TIMEOUT``."""
        self._write_paused = True
        if self.state is State.ANSWERING:
            self._become(State.ANSWERING, SEND_TIMEOUT)

    def resume_writing(self) -> None:
        """Go on."""
        self._write_paused = False
        if self.state is State.ANSWERING:
            self._become(State.ANSWERING)
            if self._step is None:
                self._step = self._owner.turns.call(self._send_portion)

    def _answered(self) -> None:
        if self.state is not State.ANSWERING:
            return
        if not self._keep_alive:
            self._close()
        else:
            # From the loop: requests sent ahead must not nest.
            self._step = self._loop.call_soon(self._next_step)

    def _next_step(self) -> None:
        self._step = None
        self._next()

    def _refuse(self, answer: Answer) -> None:
        """Answer a request that could not be read, and linger."""
        self._deaf = True
        self._queue.clear()
        self._transport.write(response_head(answer.status, len(answer.body), False, None, answer.fields) + answer.body)
        self._become(State.LINGERING, LINGERING_TIME)
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _stop_answering(self) -> None:
        self._pieces = None
        if self._step is not None:
            self._step.cancel()
            self._step = None


def response_head(
    status: int,
    length: int | None,
    keep_alive: bool,
    request: Request | None,
    fields: tuple[tuple[str, str], ...],
    content_type: str = "application/json",
) -> bytes:
    """Return a complete head; without a length the body is chunked, or ended by the connection for HTTP/1.0."""
    version_11 = request is None or request.version_11
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Server: propylon",
        f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {content_type}",
        "Cache-Control: no-store",
        *(f"{name}: {value}" for name, value in fields),
    ]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    elif version_11:
        lines.append("Transfer-Encoding: chunked")
    if not keep_alive:
        lines.append("Connection: close")
    elif not version_11:
        lines.append("Connection: keep-alive")
    return "\r\n".join((*lines, "", "")).encode("latin-1")
