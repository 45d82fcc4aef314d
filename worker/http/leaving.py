"""How a tunnel takes leave of a WebSocket when the worker has to end.

Each side is sent a Close frame as soon as the other one, whose frames it receives, is between two of them; what the
other one says then is not passed on any more, but it may answer with a Close of its own.
"""

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.http.tunnel import FrameEnd

FRAME_TIME = 1.0  # seconds for the frame under way to come to its end
ANSWER_TIME = 1.0  # seconds for the Close to be answered


class Leaving(asyncio.Protocol):
    """One end of the tunnel from then on, as the protocol of its transport."""

    __slots__ = ("_end", "_farewell", "has_told")

    def __init__(self, end: "FrameEnd", farewell: bytes) -> None:
        """Take over the end; ``farewell`` is the Close frame for the other one."""
        self._end = end
        self._farewell = farewell
        self.has_told = False  # the other one has its Close
        end.transport.set_protocol(self)

    @property
    def is_over(self) -> bool:
        """Whether the other side is told, and this one will say nothing more."""
        return self.has_told and (self._end.has_ended or self._end.cursor.has_closed)

    def data_received(self, data: bytes) -> None:
        """Pass on the frame under way, and nothing behind it."""
        end = self._end
        if not self.has_told:
            size = end.cursor.feed_frame(data)
            end.pass_on(data[:size])
            data = data[size:]
            self.tell()
        end.cursor.feed(data)
        end.tunnel.has_left()

    def tell(self) -> None:
        """Send the other side its Close, unless a frame is under way; read on only for the answer."""
        end = self._end
        cursor, other = end.cursor, end.other.transport
        if self.has_told:
            return
        if cursor.left < 0:
            cursor.feed(b"")
        if cursor.is_between_frames:
            self.has_told = True
            if not cursor.has_closed and not other.is_closing():
                other.write(self._farewell)
            end.resume_reading()

    def eof_received(self) -> bool:
        """Expect no answer any more."""
        self._end.has_ended = True
        self._end.tunnel.has_left()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """End the tunnel."""
        self._end.connection_lost(exc)

    def pause_writing(self) -> None:
        """Let the other side wait, unless what it says is not passed on any more."""
        other = self._end.other.leaving
        if other is None or not other.has_told:
            self._end.pause_writing()

    def resume_writing(self) -> None:
        """Read from the other side again."""
        self._end.resume_writing()
