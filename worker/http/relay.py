"""The request's body on its way upstream, under flow control.

Bytes go straight from the downstream connection to the upstream one. Until there is one they are kept, and reading
is paused when too many wait. What has been sent stays kept only as far as it may have to be sent again (``Keep``): in
memory first, then in a file (``Spool``). A body that somebody has to see whole is received before it is sent.
"""

import logging
from enum import IntEnum
from typing import TYPE_CHECKING

from worker.errors import BadRequest, BodyTooLarge, ProxyError
from worker.exchange import Exchange, suspend
from worker.http.framing import ChunkedDecoder, ChunkedError, chunk, last_chunk
from worker.http.spool import Spool
from worker.messages import Request

if TYPE_CHECKING:
    from worker.context import WorkerContext
    from worker.http.http1_client import Http1Client

log = logging.getLogger("propylon.http")

PIECE_BYTES = 65_536  # of a file that is sent again


class Keep(IntEnum):
    """What of a body is kept once it has been sent."""

    NOTHING = 0
    BEGINNING = 1  # all of it while that fits into memory, then nothing
    ALL = 2


class RequestBody:
    """A body that is being received and passed on."""

    __slots__ = (
        "_context",
        "_decoder",
        "_exchange",
        "_expects_continue",
        "_first",
        "_is_lost",
        "_is_wanted_whole",
        "_keep",
        "_limit",
        "_loading",
        "_memory_limit",
        "_received",
        "_remaining",
        "_sent",
        "_sink",
        "_spool",
        "complete",
    )

    def __init__(
        self, context: "WorkerContext", exchange: Exchange, request: Request, chunked: bool, expects_continue: bool
    ) -> None:
        """Expect the body of a request, of a known length or chunked."""
        settings = context.settings
        self._context = context
        self._exchange = exchange
        self._decoder = ChunkedDecoder() if chunked else None
        self._remaining = request.content_length
        self._limit = settings.client_max_body_size
        self._expects_continue = expects_continue
        self._memory_limit = settings.client_body_buffer_size
        self._first = b""  # what is kept, while it is one piece …
        self._spool: Spool | None = None  # … and when it is more
        self._is_lost = False  # some of it is not kept any more
        self._keep = Keep.NOTHING
        self._sink: Http1Client | None = None
        self._received = 0  # decoded bytes
        self._sent = 0  # likewise; all that was received, unless it is being sent again
        self._loading: Http1Client | None = None  # for whom a piece is being read from the file
        self._is_wanted_whole = False
        self.complete = False

    @property
    def replayable(self) -> bool:
        """Whether all that was received can be sent again."""
        return not self._is_lost and (self._spool is None or self._spool.error is None)

    @property
    def received(self) -> int:
        """How many bytes of it have come."""
        return self._received

    @property
    def is_withheld(self) -> bool:
        """Whether the client waits to be asked for it."""
        return self._expects_continue and not self._received

    @property
    def is_sent(self) -> bool:
        """Whether all of it has been written to the connection."""
        return self.complete and self._sent == self._received

    def limit(self, most: int) -> None:
        """Let it have at most so many bytes, when its length is not known; a lower limit stays."""
        self._limit = min(self._limit or most, most)

    # receiving

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the connection and return those that follow the body.

        Raises:
            BadRequest: the chunked coding is broken.
            BodyTooLarge: the body exceeds ``client_max_body_size``, or what a plugin allows.
        """
        if self._decoder is None:
            if len(data) <= self._remaining:
                piece, rest = data, b""
            else:
                piece, rest = data[: self._remaining], data[self._remaining :]
            self._remaining -= len(piece)
            self.complete = self._remaining == 0
        else:
            try:
                piece, rest = self._decoder.feed(data)
            except ChunkedError as error:
                raise BadRequest(str(error)) from error
            self.complete = self._decoder.finished
            if self._limit and self._received + len(piece) > self._limit:
                raise BodyTooLarge(f"chunked body larger than {self._limit} bytes")
        self._take(piece)
        return rest

    def _take(self, data: bytes) -> None:
        is_live = self._sink is not None and self._sent == self._received
        self._received += len(data)
        if is_live:
            self._send(data)
            if self._is_lost:
                return
        if is_live and not self._is_kept():
            self.close()
        elif self._spool is None and self._received == len(data):
            self._first = data
        else:
            self._kept().append(data)
        if self._received > self._memory_limit:
            self.control_flow()

    def _kept(self) -> Spool:
        """Return what is kept, as that to which more can be added."""
        if self._spool is None:
            self._spool = Spool(self._context.loop, self._context.body_temp_path)
            self._spool.on_change(self._spool_changed)
            if self._first:
                self._spool.append(self._first)
                self._first = b""
        return self._spool

    def _is_kept(self) -> bool:
        """Tell whether what has been sent may be asked for again."""
        return self._keep is Keep.ALL or (self._keep is Keep.BEGINNING and self._received <= self._memory_limit)

    def ended(self) -> None:
        """Go on with what waits for the whole body; called when the connection has dealt with what follows it."""
        if self._exchange.waiting is self:
            self._exchange.resume()

    async def whole(self, limit: int) -> bytes:
        """Receive all of the body before any of it is sent, and return it; nothing if it exceeds ``limit`` bytes.

        Raises:
            DownstreamError: the body does not come, is broken, or exceeds ``client_max_body_size``.
            ProxyError: it cannot be kept.
        """
        self._is_wanted_whole = True
        spool = self._kept()
        spool.spill(self._memory_limit)
        self._send_continue()
        self.control_flow()
        if not self.complete:
            self._exchange.waiting = self
            await suspend()
        pieces: list[bytes] = []
        at = 0
        while at < self._received <= limit:
            piece: bytes | None = spool.read(at, self._received - at, self._loaded)
            if piece is None:
                self._exchange.waiting = self
                piece = await suspend()
                assert piece is not None  # noqa: S101 - narrows the type of what _loaded hands over
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)

    # sending

    def attach(self, connection: "Http1Client", keep: Keep) -> None:
        """Send to a connection what has been received, and from now on what comes.

        Raises:
            ProxyError: what was received is not at hand any more.
        """
        if not self.replayable:
            raise ProxyError("the request's body is not at hand for another try")
        self._sink = connection
        self._sent = 0
        self._keep = keep
        if keep is Keep.ALL:
            self._kept().spill(self._memory_limit)
        if not self._received and not self.complete:
            self._send_continue()
        elif self._spool is not None:
            self._send_kept()
        else:
            self._send(self._first)
            if not self._is_kept():
                self.close()
        self.control_flow()

    def detach(self) -> None:
        """Keep what comes until there is another connection."""
        self._sink = None

    def release(self) -> None:
        """Keep nothing that has been sent: the answer has begun, and there will be no other try."""
        self._keep = Keep.NOTHING
        if self._sink is not None and self._sent == self._received:
            self.close()

    def close(self) -> None:
        """Forget what is kept."""
        self._is_lost = True
        self._first = b""
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def _send_continue(self) -> None:
        if self._expects_continue and not self._received and not self.complete:
            self._expects_continue = False
            self._exchange.downstream.send_continue()

    def _send(self, data: bytes) -> None:
        assert self._sink is not None  # noqa: S101 - only called when there is one
        self._sent += len(data)
        if self._decoder is not None:
            data = chunk(data) if data else b""
            if self.complete and self._sent == self._received:
                data += last_chunk(self._decoder.trailers)
        self._sink.send_body(data)

    def _send_kept(self) -> None:
        """Send what was received before there was this connection, as far as it takes it."""
        spool, sink = self._spool, self._sink
        assert spool is not None and sink is not None  # noqa: S101, PT018 - only a replayable body is attached again
        kept = spool.in_memory
        if kept is not None:
            self._send(bytes(kept))
        while self._sent < self._received:
            if self._loading is not None or sink.write_paused:
                return
            piece = spool.read(self._sent, PIECE_BYTES, self._loaded)
            if piece is None:
                self._loading = sink
                return
            self._send(piece)
        if not self._is_kept():
            self.close()

    def _loaded(self, piece: bytes) -> None:
        sink, self._loading = self._loading, None
        if self._exchange.waiting is self:
            self._exchange.resume(piece)
            return
        if sink is self._sink and sink is not None:
            self._send(piece)
        self.control_flow()

    # flow

    def control_flow(self) -> None:
        """Send what waits; read from the client, or let it wait, as those who take its bytes can."""
        if self._sink is not None and self._sent < self._received:
            self._send_kept()
        if self.complete:
            return
        if self._may_receive():
            self._exchange.downstream.resume_reading()
        else:
            self._exchange.downstream.pause_reading()

    def _may_receive(self) -> bool:
        if self._spool is not None and self._spool.congested:
            return False
        if self._sink is None:
            return self._is_wanted_whole or self._received <= self._memory_limit
        return self._sent == self._received and not self._sink.write_paused

    def _spool_changed(self) -> None:
        spool = self._spool
        if spool is None:
            return
        if spool.error is None:
            self.control_flow()
        elif self._exchange.waiting is self or self._loading is not None or self._sent < self._received:
            self._exchange.fail(ProxyError(f"the request's body cannot be kept in a file: {spool.error}"))
        else:
            log.error("a request's body cannot be kept in a file, so it cannot be sent again: %s", spool.error)
            self.close()
            self.control_flow()


async def buffer_body(exchange: Exchange, limit: int) -> None:
    """Receive the whole request body and leave it in ``exchange.buffered_body``, empty if above ``limit`` bytes.

    Raises:
        DownstreamError, ProxyError: see ``RequestBody.whole``.
    """
    body = exchange.body
    if body is None:
        exchange.buffered_body = exchange.buffered_body or b""
    elif exchange.buffered_body is None or (not exchange.buffered_body and body.received <= limit):
        exchange.buffered_body = await body.whole(limit)  # perhaps again: who wanted it first wanted less
