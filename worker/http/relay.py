"""The request's body on its way upstream, under flow control.

Bytes go straight from the downstream connection to the upstream one. Until there is one they are kept, and
reading is paused when too many wait. As long as all that was sent is small it stays kept, so that a try that
failed can be repeated.
"""

from typing import TYPE_CHECKING

from worker.errors import BadRequest, BodyTooLarge
from worker.http.framing import ChunkedDecoder, ChunkedError, chunk, last_chunk
from worker.messages import Framing

if TYPE_CHECKING:
    from worker.http.http1_client import Http1Client
    from worker.http.http1_server import Http1Server

MAX_KEPT_BYTES = 65_536


class RequestBody:
    """A body that is being received and passed on."""

    __slots__ = (
        "_decoder",
        "_downstream",
        "_expects_continue",
        "_kept",
        "_limit",
        "_remaining",
        "_sink",
        "complete",
    )

    def __init__(
        self, downstream: "Http1Server", framing: Framing, length: int, limit: int, expects_continue: bool
    ) -> None:
        """Expect a body of ``length`` bytes, or a chunked one of at most ``limit`` (0: of any size)."""
        self._downstream = downstream
        self._decoder = ChunkedDecoder() if framing is Framing.CHUNKED else None
        self._remaining = length
        self._limit = limit
        self._expects_continue = expects_continue
        self._sink: Http1Client | None = None
        self._kept: bytearray | None = bytearray()
        self.complete = False

    @property
    def replayable(self) -> bool:
        """Whether all that was passed on so far can be passed on again."""
        return self._kept is not None

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the connection and return those that follow the body.

        Raises:
            BadRequest: the chunked coding is broken.
            BodyTooLarge: the body exceeds ``client_max_body_size``.
        """
        if self._decoder is None:
            piece, rest = data[: self._remaining], data[self._remaining :]
            self._remaining -= len(piece)
            self.complete = self._remaining == 0
            self._pass_on(piece)
            return rest
        try:
            piece, rest = self._decoder.feed(data)
        except ChunkedError as error:
            raise BadRequest(str(error)) from error
        self._remaining += len(piece)
        if self._limit and self._remaining > self._limit:
            raise BodyTooLarge(f"chunked body larger than {self._limit} bytes")
        self.complete = self._decoder.finished
        coded = chunk(piece) if piece else b""
        self._pass_on(coded + last_chunk(self._decoder.trailers) if self.complete else coded)
        return rest

    def _pass_on(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.send_body(data)
        if self._kept is not None:
            self._kept += data
            if len(self._kept) > MAX_KEPT_BYTES:
                if self._sink is None:
                    self._downstream.pause_reading()
                else:
                    self._kept = None

    def attach(self, connection: "Http1Client") -> None:
        """Send to a connection what has been received, and from now on what comes."""
        assert self._kept is not None  # noqa: S101 - a body that is not replayable is not tried again
        self._sink = connection
        if self._kept:
            connection.send_body(bytes(self._kept))
            if len(self._kept) > MAX_KEPT_BYTES:
                self._kept = None
        elif self._expects_continue and not self.complete:
            self._expects_continue = False
            self._downstream.send_continue()
        if not self.complete and not connection.write_paused:
            self._downstream.resume_reading()

    def detach(self) -> None:
        """Keep what comes until there is another connection."""
        self._sink = None
