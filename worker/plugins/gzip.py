"""Compresses answers with gzip.

    types           Content-Types (``["text/html"]``), or ``*`` for all
    min_length      bytes (20) below which an answer is not worth it
    comp_level      1 to 9 (1)
    http_version    1.1 or 1.0: the oldest that is given compressed answers
    buffers         ``number`` and ``size``; taken, and of no effect
    vary            whether answers that may be compressed say ``Vary: Accept-Encoding``

An answer that is encoded already, is part of one (206), or says ``no-transform``, stays as it is; so does what a
client gets that does not accept gzip.
"""

import zlib
from typing import Annotated

import msgspec

from worker.plugins.base import Scope
from worker.plugins.compression import Compression, CompressionConfig

# Bytes that take up to 1 ms by level (measured: 1.1 ms for 64 KiB of text at level 1, 2 at 6, 7 of JSON at 9).
_AT_ONCE = {1: 65_536, 2: 65_536, 3: 65_536, 4: 32_768, 5: 32_768, 6: 32_768, 7: 16_384, 8: 16_384, 9: 16_384}
_LEAST = 1024  # bytes that are worth sending


class Buffers(msgspec.Struct):
    """nginx's buffers."""

    number: Annotated[int, msgspec.Meta(ge=1)] = 32
    size: Annotated[int, msgspec.Meta(ge=1)] = 4096


class GzipConfig(CompressionConfig, kw_only=True):
    """How answers are compressed."""

    comp_level: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    buffers: Buffers = msgspec.field(default_factory=Buffers)


class Gzip(Compression[GzipConfig]):
    """Compresses with zlib."""

    name = "gzip"
    priority = 995
    Config = GzipConfig
    coding = b"gzip"

    def __init__(self, config: GzipConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self.open = lambda: GzipCompressor(config.comp_level)


class GzipCompressor:
    """Compresses one body."""

    __slots__ = ("_at_once", "_held", "_zlib")

    def __init__(self, level: int) -> None:
        self._zlib = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS | 16)
        self._at_once = _AT_ONCE[level]
        self._held = b""  # for the head waits for what is sent first, and may then know the length

    def compress(self, data: bytes, flushes: bool, is_last: bool) -> bytes:
        """Return what there is to be sent after a piece."""
        compressed = self._held + self._zlib.compress(data)
        if is_last:
            return compressed + self._zlib.flush()
        if flushes:
            return compressed + self._zlib.flush(zlib.Z_SYNC_FLUSH)
        self._held = compressed if len(compressed) < _LEAST else b""
        return b"" if self._held else compressed

    def is_long(self, size: int) -> bool:
        """Tell whether it may take longer than about 1 ms to compress so many bytes more."""
        return size > self._at_once
