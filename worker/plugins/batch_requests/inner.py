"""Requests that the gateway makes of itself: a client connection without a socket, served as any other."""

import asyncio
from typing import TYPE_CHECKING, Any

from httptools import HttpParserError, HttpResponseParser

from worker.http.http1_server import Http1Server

if TYPE_CHECKING:
    from worker.context import WorkerContext

LARGEST_ANSWER = 16 * 1024 * 1024

Ends = tuple[tuple[str, int], tuple[str, int]]


class InnerFailed(Exception):
    """There is no answer, or one that is too large."""


class InnerAnswer:
    """What came of a request."""

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.size = 0  # bytes of the body


async def ask(context: "WorkerContext", ends: Ends, request: bytes, is_head: bool, most: int) -> InnerAnswer:
    """Let a request be served for a client whose address, and ours, are the ``ends``.

    An answer with a body above ``LARGEST_ANSWER`` bytes, or ``most``, has failed.

    Raises:
        InnerFailed: with the reason.
    """
    connection = Http1Server(context)
    transport = InnerTransport(ends, context.loop.create_future(), is_head, min(most, LARGEST_ANSWER))
    connection.connection_made(transport)
    try:
        connection.data_received(request)
        return await transport.answered
    finally:
        transport.close()
        connection.connection_lost(None)


class InnerTransport(asyncio.Transport):
    """The client's end; the parser calls it back."""

    def __init__(self, ends: Ends, answered: "asyncio.Future[InnerAnswer]", is_head: bool, most: int) -> None:
        super().__init__()
        self._ends = ends
        self._is_head = is_head
        self._is_closed = False
        self._answer = InnerAnswer()
        self._most = most
        self._parser = HttpResponseParser(self)
        self.answered = answered

    # what the parser calls

    def on_message_begin(self) -> None:
        """Begin anew, after an interim response."""
        self._answer = InnerAnswer()

    def on_status(self, reason: bytes) -> None:
        """Take the reason phrase."""
        self._answer.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field."""
        self._answer.fields.append((name, value))

    def on_headers_complete(self) -> None:
        """Take the status; the answer to HEAD ends here."""
        self._answer.status = self._parser.get_status_code()
        if self._is_head and self._answer.status >= 200:
            self._done()

    def on_body(self, data: bytes) -> None:
        """Take a piece of the body."""
        self._answer.size += len(data)
        if self._answer.size > self._most:
            self._failed("the answer is too large")
        else:
            self._answer.pieces.append(data)

    def on_message_complete(self) -> None:
        """The answer has ended, unless it was an interim one."""
        if self._answer.status >= 200:
            self._done()

    def _done(self) -> None:
        if not self.answered.done():
            self.answered.set_result(self._answer)

    def _failed(self, reason: str) -> None:
        if not self.answered.done():
            self.answered.set_exception(InnerFailed(reason))

    # what the connection calls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the ends."""
        return {"peername": self._ends[0], "sockname": self._ends[1]}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of the answer."""
        if self.answered.done():
            return
        try:
            self._parser.feed_data(bytes(data))
        except HttpParserError as error:
            self._failed(f"the answer cannot be read: {error}")

    def close(self) -> None:
        """End; an answer that ends with the connection has ended."""
        self._is_closed = True
        status = self._answer.status
        framed = any(name.lower() in (b"content-length", b"transfer-encoding") for name, _ in self._answer.fields)
        if status >= 200 and not framed:
            self._done()
        self._failed("the connection was closed")

    def abort(self) -> None:
        """End without an answer."""
        self._is_closed = True
        self._failed("the answer broke off")

    def is_closing(self) -> bool:
        """Tell whether it has ended."""
        return self._is_closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        """Nothing is buffered."""
        return 0

    def pause_reading(self) -> None:
        """Nothing more is sent."""

    def resume_reading(self) -> None:
        """Nothing more is sent."""

    def can_write_eof(self) -> bool:
        """There is no half of it that could be closed."""
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Who lingers gets no more than who does not."""
