"""FilteredAnswer: an upstream's answer that goes through plugins on its way to the client.

When plugins change the length of the body, the head waits for the first piece that is to be sent: if that is all there
is, the client gets its length, and chunks otherwise.
"""

from http import HTTPStatus
from typing import TYPE_CHECKING

from worker.errors import PluginFailed
from worker.http.framing import chunk, last_chunk
from worker.http.responses import response_head
from worker.messages import CHUNKED, NO_BODY, OF_LENGTH, Framing, Response
from worker.plugins.filters import filter_head
from worker.plugins.response_head import ResponseHead

if TYPE_CHECKING:
    from worker.exchange import Exchange


class FilteredAnswer:
    """Takes the pieces of a body as they come and sends what becomes of them."""

    __slots__ = ("_body", "_exchange", "_has_body", "_head", "_is_head_sent", "_remaining", "_response")

    def __init__(self, exchange: "Exchange", response: Response) -> None:
        """Show the head to the plugins; PluginFailed when one of them fails."""
        request, run = exchange.request, exchange.run
        assert request is not None and run is not None  # noqa: S101, PT018 - an upstream has answered it
        self._exchange = exchange
        self._response = response
        line, _, fields = response.head.partition(b"\r\n")
        length = response.content_length if response.framing is OF_LENGTH else None
        head = ResponseHead(response.status, line[13:], fields, length, request.method == b"HEAD", True)
        if response.framing is NO_BODY:  # what it says is the length of a body that does not come
            said = head.fields.get(b"Content-Length")
            head.content_length = int(said) if said is not None else None
            head.fields.remove(b"Content-Length")
        self._head = filter_head(exchange, head)
        self._body = run.body
        self._has_body = head.has_body
        self._is_head_sent = False
        self._remaining: int | None = None
        if not head.has_body:
            self._send_head(NO_BODY, 0)
        elif not head.length_changes:
            if response.framing is NO_BODY:  # a 204 or 304 of which plugins have made something else
                self._send_head(OF_LENGTH, 0)
            else:
                self._send_head(response.framing, response.content_length)

    def feed(self, data: bytes) -> None:
        """Take a piece of the body; PluginFailed when a filter fails."""
        if not self._has_body:
            return  # plugins have made an answer without a body of it
        if self._body is not None:
            data = self._body.feed(data)
        if data:
            if not self._is_head_sent:
                self._send_head(CHUNKED, 0)
            self._send(data)

    def end(self, trailers: bytes = b"") -> None:
        """The body has ended; PluginFailed when a filter fails."""
        data = self._body.feed(b"", is_last=True) if self._body is not None else b""
        if not self._is_head_sent:
            self._send_head(OF_LENGTH, len(data))
        if data:
            self._send(data)
        if self._remaining:
            raise PluginFailed("plugins have made the body shorter than they said; see ResponseHead.body_changes")
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
        exchange.downstream.start_response(exchange, sent, response_head(sent, request, keep_alive=True))

    def _send(self, data: bytes) -> None:
        downstream = self._exchange.downstream
        if self._remaining is not None:
            if len(data) > self._remaining:
                raise PluginFailed("plugins have made the body longer than they said; see ResponseHead.body_changes")
            self._remaining -= len(data)
        self._exchange.bytes_sent += len(data)
        downstream.write(chunk(data) if downstream.chunked_response else data)
