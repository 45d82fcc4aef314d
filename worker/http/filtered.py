"""FilteredAnswer: an upstream's answer that goes through plugins on its way to the client.

When plugins change the length of the body, the head waits for the first piece that is to be sent: if that is all there
is, the client gets its length, and chunks otherwise.

When a filter has to be waited for, the pieces that come meanwhile queue up, and the peer is not read from.
"""

from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING

from worker.errors import PluginFailed, ProxyError
from worker.http.framing import chunk, last_chunk
from worker.http.responses import response_head
from worker.messages import CHUNKED, NO_BODY, OF_LENGTH, Framing, Response
from worker.plugins.base import FAILURES
from worker.plugins.filters import filter_head
from worker.plugins.response_head import ResponseHead

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.exchange import Exchange
    from worker.http.http1_client import Http1Client
    from worker.plugins.chain import Chain


def filtered_head(exchange: "Exchange", response: Response) -> ResponseHead:
    """Show the head to the plugins, and return what they have made of it; PluginFailed when one of them fails."""
    request = exchange.request
    assert request is not None  # noqa: S101 - an upstream has answered it
    parts = response.parts
    if parts is None:
        line, _, fields = response.head.partition(b"\r\n")
        parts = response.parts = line[13:], fields
    length = response.content_length if response.framing is OF_LENGTH else None
    head = ResponseHead(response.status, parts[0], parts[1], length, request.method == b"HEAD", True)
    if response.framing is NO_BODY:  # what it says is the length of a body that does not come
        said = head.fields.get(b"Content-Length")
        head.content_length = int(said) if said is not None else None
        head.fields.remove(b"Content-Length")
    return filter_head(exchange, head)


def whole_head(exchange: "Exchange", response: Response, head: ResponseHead) -> bytes:
    """Return what is sent before a body of known length that is at hand and not filtered; empty in other cases."""
    run, request = exchange.run, exchange.request
    assert run is not None and request is not None  # noqa: S101, PT018 - an upstream has answered, plugins have seen it
    if run.body is not None or not (head.has_body and request.version_11 and exchange.downstream.keep_alive):
        return b""
    exchange.status, exchange.bytes_sent = head.status, response.content_length
    lines = head.status_line(), head.fields.lines, response.content_length
    wire = run.sent_head = b"%b%bContent-Length: %d\r\n\r\n" % lines
    return wire


def extended_head(exchange: "Exchange", response: Response, chain: "Chain", wire: bytes) -> bytes:
    """Return the head of an answer to which plugins do no more than to add fields; empty when they have to see it.

    Raises:
        PluginFailed: one of them fails.
    """
    request = exchange.request
    assert request is not None and exchange.run is not None  # noqa: S101, PT018 - an upstream has answered, with plugins
    if response.lacks_names_of is not chain and not _lacks_names(response, chain):
        return b""
    if request.head_only or not (request.version_11 and exchange.downstream.keep_alive):
        return b""
    lines = wire[:-2]
    for record, hook in chain.added:
        try:
            lines += hook(exchange)
        except FAILURES as error:
            chain.failed(record.name, error)
    exchange.status, exchange.bytes_sent = response.status, response.content_length
    head = exchange.run.sent_head = lines + b"\r\n"
    return head


def _lacks_names(response: Response, chain: "Chain") -> bool:
    head = response.head.lower()
    if any(name in head for name in chain.added_names):
        return False
    response.lacks_names_of = chain
    return True


class FilteredAnswer:
    """Takes the pieces of a body as they come and sends what becomes of them."""

    __slots__ = (
        "_body",
        "_exchange",
        "_has_body",
        "_head",
        "_is_head_sent",
        "_queue",
        "_remaining",
        "_response",
        "_unsent",
        "_when_sent",
        "has_ended",
    )

    def __init__(self, exchange: "Exchange", response: Response, head: ResponseHead) -> None:
        """Take the head as ``filtered_head`` has left it."""
        run = exchange.run
        assert run is not None  # noqa: S101 - there are plugins
        self._exchange = exchange
        self._response = response
        self._head = head
        self._body = run.body
        self._has_body = head.has_body
        self._is_head_sent = False
        self._unsent = b""  # the head, until there is something to send it with, or nothing to wait for
        self._remaining: int | None = None
        self._queue: deque[tuple[bytes, bytes | None]] | None = None  # pieces that wait, the last with its trailers
        self._when_sent: Callable[[], None] | None = None
        self.has_ended = False  # all of it has come
        if not head.has_body:
            self._send_head(NO_BODY, 0)
        elif not head.length_changes:
            if response.framing is NO_BODY:  # a 204 or 304 of which plugins have made something else
                self._send_head(OF_LENGTH, 0)
            else:
                self._send_head(response.framing, response.content_length)

    def flush(self) -> None:
        """Send the head, if it waits for the body."""
        if self._unsent:
            self._exchange.downstream.write(self._unsent)
            self._unsent = b""

    def feed(self, data: bytes) -> None:
        """Take a piece of the body; PluginFailed when a filter fails."""
        if not self._has_body:
            return  # plugins have made an answer without a body of it
        if self._queue is not None:
            self._queue.append((data, None))
            return
        filtered = self._body.feed(data) if self._body is not None else data
        if isinstance(filtered, bytes):
            self._pass(filtered)
        else:
            self._wait(filtered, None)

    def end(self, trailers: bytes, when_sent: "Callable[[], None]") -> bool:
        """The body has ended; tell whether all has been sent, or ``when_sent`` will be called when it has.

        Raises:
            PluginFailed: a filter has failed.
        """
        self.has_ended = True
        self._when_sent = when_sent
        if self._queue is not None:
            self._queue.append((b"", trailers))
            return False
        filtered = self._body.feed(b"", is_last=True) if self._body is not None else b""
        if isinstance(filtered, bytes):
            self._pass_last(filtered, trailers)
            return True
        self._wait(filtered, trailers)
        return False

    def _wait(self, filtered: "Awaitable[bytes]", trailers: bytes | None) -> None:
        """Let what comes queue up until a filter has done its work."""
        self._queue = deque()
        connection = self._exchange.connection
        assert connection is not None  # noqa: S101 - the answer is its
        connection.pause_reading()
        self._exchange.downstream.context.loop.create_task(self._work(connection, filtered, trailers))

    async def _work(self, connection: "Http1Client", filtered: "Awaitable[bytes]", trailers: bytes | None) -> None:
        """Pass on what filters have made of a piece, and then of those that have queued up."""
        exchange, queue = self._exchange, self._queue
        assert queue is not None and self._body is not None  # noqa: S101, PT018 - there is something to be waited for
        try:
            data = await filtered
            while exchange.waiting is connection:  # unless it has failed meanwhile
                if trailers is not None:
                    self._pass_last(data, trailers)
                    assert self._when_sent is not None  # noqa: S101 - given with the end
                    self._when_sent()
                    return
                self._pass(data)
                if not queue:
                    break
                piece, trailers = queue.popleft()
                more = self._body.feed(piece, is_last=trailers is not None)
                data = more if isinstance(more, bytes) else await more
        except ProxyError as error:
            if exchange.waiting is connection:
                exchange.fail(error)
            return
        self._queue = None
        if not exchange.downstream.write_paused:
            connection.resume_reading()

    def _pass(self, data: bytes) -> None:
        if data:
            if not self._is_head_sent:
                self._send_head(CHUNKED, 0)
            self._send(data)

    def _pass_last(self, data: bytes, trailers: bytes) -> None:
        if not self._is_head_sent:
            self._send_head(OF_LENGTH, len(data))
        if data:
            self._send(data)
        if self._remaining:
            raise PluginFailed("plugins have made the body shorter than they said; see ResponseHead.body_changes")
        self.flush()
        if self._exchange.downstream.chunked_response:
            self._exchange.downstream.write(last_chunk(trailers))

    def _send_head(self, framing: Framing, length: int) -> None:
        self._is_head_sent = True
        head, exchange, response = self._head, self._exchange, self._response
        self._remaining = length if framing is OF_LENGTH else None
        lines = head.status_line() + head.fields.lines
        if framing is NO_BODY and response.framing is NO_BODY and head.status != HTTPStatus.NO_CONTENT:
            known = head.content_length if not head.length_changes else None
            lines += b"Content-Length: %d\r\n" % known if known is not None else b""
        sent = Response(head.status, framing, length, lines, response.keep_alive)
        request = exchange.request
        assert request is not None  # noqa: S101 - an upstream has answered it
        wire = response_head(sent, request, keep_alive=True)
        exchange.run.sent_head = wire  # type: ignore[union-attr]  # plugins filter it
        self._unsent = exchange.downstream.begin_response(exchange, sent, wire)

    def _send(self, data: bytes) -> None:
        downstream = self._exchange.downstream
        if self._remaining is not None:
            if len(data) > self._remaining:
                raise PluginFailed("plugins have made the body longer than they said; see ResponseHead.body_changes")
            self._remaining -= len(data)
        self._exchange.bytes_sent += len(data)
        unsent, self._unsent = self._unsent, b""
        downstream.write(unsent + (chunk(data) if downstream.chunked_response else data))
