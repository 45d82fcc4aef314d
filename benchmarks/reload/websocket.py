"""Frames of WebSockets (RFC 6455 section 5), as bytes; unfragmented messages only."""

import base64
import hashlib
import os
import struct

BINARY, CLOSE, PING, PONG = 0x2, 0x8, 0x9, 0xA
NORMAL = 1000
GOING_AWAY = 1001
SERVICE_RESTART = 1012
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class FrameError(ValueError):
    """What came is no frame that may come here."""


def accept_value(key: bytes) -> bytes:
    """Return what the server must say to a client's Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def frame(opcode: int, payload: bytes, masked: bool = False) -> bytes:
    """Write a message; those of clients are masked."""
    size = len(payload)
    bit = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, bit | size)
    elif size < 65_536:
        head = struct.pack("!BBH", 0x80 | opcode, bit | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, bit | 127, size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + _apply(mask, payload)


def _apply(mask: bytes, payload: bytes) -> bytes:
    size = len(payload)
    pattern = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")).to_bytes(size, "big")


class Frames:
    """Cuts what one side sends into messages."""

    def __init__(self, masked: bool) -> None:
        """Read frames that must be masked, or must not."""
        self._masked = masked
        self._data = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return opcode and payload of the messages that are complete now.

        Raises:
            FrameError: these are no frames.
        """
        self._data += data
        found = []
        while (message := self._next()) is not None:
            found.append(message)
        return found

    def _next(self) -> tuple[int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        first, second = data[0], data[1]
        if first & 0xF0 != 0x80 or first & 0xF not in (BINARY, CLOSE, PING, PONG):
            raise FrameError(f"first byte {first:#x}")
        if bool(second & 0x80) != self._masked:
            raise FrameError("masked" if second & 0x80 else "not masked")
        size, at = second & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(data) < 2 + width:
                return None
            size, at = int.from_bytes(data[2 : 2 + width], "big"), 2 + width
        start = at + (4 if self._masked else 0)
        if len(data) < start + size:
            return None
        payload = data[start : start + size]
        self._data = data[start + size :]
        return first & 0xF, _apply(data[at:start], payload) if self._masked else payload


def close_code(payload: bytes) -> int | None:
    """Return the code in a Close frame."""
    return int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None
