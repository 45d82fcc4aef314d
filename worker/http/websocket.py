"""As much of WebSocket (RFC 6455) as a tunnel has to know: where frames end, and how to say that it is over.

The payload is never looked at. Of each frame only its length is read, so that a Close frame can be put between two
frames when the worker has to end (section 5.5.1); control frames may stand between the fragments of a message.
"""

import struct

SERVICE_RESTART = 1012  # of IANA's WebSocket Close Code Number Registry
GOING_AWAY = 1001  # section 7.4.1
FRAMES_PER_STEP = 8_192  # at most followed in one step: about 1 ms
MAX_BEHIND_BYTES = 1 << 20
_CLOSE = 8
_MASKED = 128
# What a whole frame takes, by the second byte of its header; -1 when its length stands behind that.
SHORT_FRAMES = tuple(-1 if byte & 127 > 125 else byte + 2 if byte < _MASKED else byte - 122 for byte in range(256))


class FrameCursor:
    """Where in a frame the bytes of one direction stand."""

    __slots__ = ("_opcode", "_rest", "is_adrift", "left", "whole")

    def __init__(self) -> None:
        self.left = 0  # bytes to the end of the frame under way; -1: its header, or more, has not been looked at
        self.whole = b""  # the last frame, when it came as one read: it is enough to set this
        self._opcode = 0  # of the last frame before
        self._rest = b""  # what has not been looked at: an incomplete header, or what was too much for one step
        self.is_adrift = False  # what had not been looked at became too much

    @property
    def is_between_frames(self) -> bool:
        """Whether all frames that have begun are complete."""
        return self.left == 0

    @property
    def has_closed(self) -> bool:
        """Whether the last frame is a Close, and complete: nothing may follow it."""
        return self.left == 0 and (self.whole[0] if self.whole else self._opcode) & 15 == _CLOSE

    def feed(self, data: bytes) -> None:
        """Go on over bytes that have come; over none, to catch up."""
        if len(data) < self.left:
            self.left -= len(data)
        elif not self.is_adrift:
            if self.whole:
                self._opcode, self.whole = self.whole[0], b""
            at = max(0, self.left)
            if self._rest:
                data, self._rest = self._rest + data, b""
            self._follow(data, at)

    def _follow(self, data: bytes, at: int) -> None:
        """Go from frame to frame, from where one begins."""
        size = len(data)
        first = -1
        for _ in range(FRAMES_PER_STEP):
            if size - at < 2:
                break
            step = SHORT_FRAMES[data[at + 1]]
            if step < 0:
                length = data[at + 1]
                header = 4 if length & 127 == 126 else 10
                if size - at < header:
                    break
                step = header + int.from_bytes(data[at + 2 : at + header], "big") + (4 if length >= _MASKED else 0)
            first = at
            at += step
        if first >= 0:
            self._opcode = data[first]
        self.left = at - size
        if at < size:
            self._rest = data[at:]
            self.left = -1
            if len(self._rest) > MAX_BEHIND_BYTES:
                self.is_adrift, self._rest = True, b""

    def feed_frame(self, data: bytes) -> int:
        """Go on to the end of the frame under way; returns how many of the bytes belong to it."""
        at = 0
        while at < len(data) and self.left:
            step = max(1, min(self.left, len(data) - at))  # a header is taken byte by byte
            self.feed(data[at : at + step])
            at += step
        return at

    def __repr__(self) -> str:
        """Show what is missing of the frame under way."""
        return f"<FrameCursor {self.left} bytes left, {len(self._rest)} to look at>"


def close_frame(code: int, mask: bytes = b"") -> bytes:
    """Make a Close frame; ``mask`` are the four random bytes by which a client must mask (section 5.3)."""
    payload = struct.pack(">H", code)
    if not mask:
        return bytes((_MASKED | _CLOSE, len(payload))) + payload
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((_MASKED | _CLOSE, _MASKED | len(payload))) + mask + masked
