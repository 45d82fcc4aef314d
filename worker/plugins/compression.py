"""What plugins that compress answers have in common: which answers, and how without keeping the loop.

An answer is compressed when it is not already, its Content-Type is one of ``types``, it has at least ``min_length``
bytes (or nobody knows), and the client takes it. It then has a weak ETag, and neither Content-Length nor
Accept-Ranges. A compressor comes after all other plugins, which see the body as it is.

Large pieces are compressed in a thread (zlib and brotli give up the GIL), small ones at once. Where the length is not
known, each piece is sent as far as it goes, for it may be an event that somebody waits for.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeVar

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.base import Plugin, Scope

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead

PARTIAL = 206  # its range is one of the body as it is


class CompressionConfig(msgspec.Struct, kw_only=True):
    """Which answers are compressed."""

    types: Annotated[list[Annotated[str, msgspec.Meta(min_length=1)]], msgspec.Meta(min_length=1)] | Literal["*"] = (
        msgspec.field(default_factory=lambda: ["text/html"])
    )
    min_length: Annotated[int, msgspec.Meta(ge=1)] = 20
    http_version: float = 1.1
    vary: bool = False


class Compressor(Protocol):
    """Compresses one body."""

    def compress(self, data: bytes, flushes: bool, is_last: bool) -> bytes:
        """Return what there is to be sent after a piece."""

    def is_long(self, size: int) -> bool:
        """Tell whether it may take longer than about 1 ms to compress so many bytes more."""


C = TypeVar("C", bound=CompressionConfig)


class Compression(Plugin[C]):
    """Compresses answers; ``coding`` is what it makes of them."""

    comes_last = True
    coding: ClassVar[bytes]

    def __init__(self, config: C, scope: Scope) -> None:
        super().__init__(config, scope)
        self._types = None if config.types == "*" else frozenset(kind.lower().encode() for kind in config.types)
        self._only_11 = config.http_version > 1.0
        self._loop = scope.services.loop
        self.open: Callable[[], Compressor]

    @classmethod
    def check(cls, config: Any) -> None:
        """Check what a type does not say."""
        if config.http_version not in (1.0, 1.1):
            raise InvalidResource("$.http_version", "must be 1.1 or 1.0")

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Decide whether the answer is compressed."""
        run, request, fields = exchange.run, exchange.request, head.fields
        assert run is not None  # noqa: S101 - hooks run in one
        run.keep(self, None)
        if request is None or head.status == PARTIAL or not self._is_meant(head):
            return
        if self._only_11 and not request.version_11:
            return
        if self.config.vary:
            add_vary(head)
        if not head.has_body or not accepts(request.header(b"accept-encoding"), self.coding):
            return
        flushes = head.content_length is None
        head.body_changes()
        fields.set(b"Content-Encoding", self.coding)
        fields.remove(b"Accept-Ranges")
        tag = fields.get(b"ETag")
        if tag is not None and not tag.startswith(b"W/"):
            fields.set(b"ETag", b"W/" + tag)
        run.keep(self, (self.open(), flushes))

    def _is_meant(self, head: "ResponseHead") -> bool:
        fields, length = head.fields, head.content_length
        if length is not None and length < self.config.min_length and not head.length_changes:
            return False
        if fields.get(b"Content-Encoding") is not None or b"no-transform" in (fields.get(b"Cache-Control") or b""):
            return False
        kind = fields.get(b"Content-Type")
        return kind is not None and (self._types is None or media_type(kind) in self._types)

    def body_filter(self, exchange: "Exchange", data: bytes, is_last: bool) -> "bytes | Awaitable[bytes]":
        """Compress a piece."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        kept: tuple[Compressor, bool] | None = run.kept(self)
        if kept is None:
            return data
        compressor, flushes = kept
        if compressor.is_long(len(data)):
            return self._loop.run_in_executor(None, compressor.compress, data, flushes, is_last)
        return compressor.compress(data, flushes, is_last)


def add_vary(head: "ResponseHead") -> None:
    """Say that the answer depends on what the client accepts."""
    names = (head.fields.get(b"Vary") or b"").lower()
    if b"accept-encoding" not in names and names != b"*":
        head.fields.add(b"Vary", b"Accept-Encoding")


@lru_cache(maxsize=1024)
def media_type(field: bytes) -> bytes:
    """Return the type in a Content-Type, without parameters, in lower case."""
    return field.partition(b";")[0].strip().lower()


@lru_cache(maxsize=1024)
def accepts(field: bytes | None, coding: bytes) -> bool:
    """Tell whether a client that has sent this Accept-Encoding takes a coding (RFC 9110 section 12.5.3)."""
    others = False
    for part in (field or b"").lower().split(b","):
        name, _, parameter = part.partition(b";")
        key, _, weight = parameter.partition(b"=")
        try:
            takes = key.strip() != b"q" or float(weight) > 0
        except ValueError:
            takes = False
        if name.strip() == coding:
            return takes
        if name.strip() == b"*":
            others = takes
    return others
