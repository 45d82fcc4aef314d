"""Compresses answers with brotli (RFC 7932); needs the extra ``brotli``. Where both may, it goes before ``gzip``.

    types, min_length, http_version, vary    as those of ``gzip``
    mode                                     0: generic, 1: text, 2: font
    comp_level                               0 to 11 (6)
    lgwin                                    logarithm of the window: 0, or 10 to 24 (19)
    lgblock                                  logarithm of the block: 0 (chosen by level), or 16 to 24

What stays as it is is the same as with ``gzip``.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.base import Scope
from worker.plugins.compression import Compression, CompressionConfig

# Bytes by level that take up to about 1 ms, however many were collected before (measured: at level 6 up to 3 ms for a
# block of 64 KiB, from 9 on 40 ms and more).
_AT_ONCE = (65_536,) * 4 + (16_384,) * 3 + (1_024,) * 2 + (256,) * 3


class BrotliConfig(CompressionConfig, kw_only=True):
    """How answers are compressed."""

    mode: Annotated[int, msgspec.Meta(ge=0, le=2)] = 0
    comp_level: Annotated[int, msgspec.Meta(ge=0, le=11)] = 6
    lgwin: Annotated[int, msgspec.Meta(ge=0, le=24)] = 19
    lgblock: Annotated[int, msgspec.Meta(ge=0, le=24)] = 0


class Brotli(Compression[BrotliConfig]):
    """Compresses with the library of the inventors."""

    name = "brotli"
    priority = 996
    Config = BrotliConfig
    coding = b"br"

    def __init__(self, config: BrotliConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        if find_spec("brotli") is None:
            raise InvalidResource("$", "brotli needs its library: pip install propylon[brotli]")
        library: Any = import_module("brotli")
        options = {"mode": config.mode, "quality": config.comp_level, "lgblock": config.lgblock}
        if config.lgwin:
            options["lgwin"] = config.lgwin
        self.open = lambda: BrotliCompressor(library.Compressor(**options), _AT_ONCE[config.comp_level])

    @classmethod
    def check(cls, config: Any) -> None:
        """Check what a type does not say."""
        super().check(config)
        if 0 < config.lgwin < 10:
            raise InvalidResource("$.lgwin", "must be 0, or 10 to 24")
        if 0 < config.lgblock < 16:
            raise InvalidResource("$.lgblock", "must be 0, or 16 to 24")


class BrotliCompressor:
    """Compresses one body."""

    __slots__ = ("_at_once", "_brotli", "_collected")

    def __init__(self, library: Any, at_once: int) -> None:
        self._brotli = library
        self._at_once = at_once
        self._collected = 0  # bytes that it may hold back

    def compress(self, data: bytes, flushes: bool, is_last: bool) -> bytes:
        """Return what there is to be sent after a piece."""
        compressed: bytes = self._brotli.process(data) if data else b""
        self._collected = 0 if compressed else self._collected + len(data)
        if is_last:
            compressed += self._brotli.finish()
        elif flushes:
            compressed += self._brotli.flush()
        return compressed

    def is_long(self, size: int) -> bool:
        """Tell whether it may take longer than about 1 ms to compress so many bytes more, and those held back."""
        return self._collected + size > self._at_once
