"""Entries of a cache: an answer, the names of the fields that its variants depend on, or that there is nothing to keep.

length of the description (4 bytes) │ description │ body
"""

from collections.abc import Callable, Sequence
from enum import IntEnum
from hashlib import blake2b

import msgspec

MOST_VARIANTS = 64
_LENGTH = 4

Header = Callable[[bytes], bytes | None]


class Kind(IntEnum):
    """What an entry is."""

    ANSWER = 0
    VARIANTS = 1  # the answers are in entries of their own
    PASS = 2  # not to be kept: nobody waits for anybody


class Description(msgspec.Struct, array_like=True, kw_only=True):
    """What is known of an entry besides the body; ``stored`` in seconds since 1970, ``ttl`` in seconds."""

    kind: Kind
    key: bytes
    stored: float
    ttl: float
    status: int = 0
    fields: list[tuple[bytes, bytes]] = []
    length: int = 0
    vary: list[bytes] = []
    variants: list[str] = []


class Entry:
    """A description, with the body it belongs to."""

    __slots__ = ("body", "description")

    def __init__(self, description: Description, body: bytes = b"") -> None:
        self.description = description
        self.body = body

    def age(self, now: float) -> float:
        """Return how many seconds old it is."""
        return max(0.0, now - self.description.stored)

    def encoded(self) -> bytes:
        """Write it."""
        self.description.length = len(self.body)
        description = _encode(self.description)
        return b"%b%b%b" % (len(description).to_bytes(_LENGTH, "big"), description, self.body)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Description).decode


def decoded(data: bytes | None, key: bytes) -> Entry | None:
    """Read the entry of a key; None when it is another's, or broken."""
    if data is None:
        return None
    end = _LENGTH + int.from_bytes(data[:_LENGTH], "big")
    try:
        description = _decode(data[_LENGTH:end])
    except (msgspec.DecodeError, ValueError):
        return None
    body = data[end:]
    return Entry(description, body) if description.key == key and len(body) == description.length else None


def name_of(key: bytes, vary: Sequence[bytes] = (), header: Header | None = None) -> str:
    """Return the name of the entry of a key, or of its variant for a request with these fields."""
    digest = blake2b(key, digest_size=16)
    for name in vary:
        value = header(name) if header is not None else None
        digest.update(b"\0%b\0%b" % (name, value if value is not None else b"\0"))
    return digest.hexdigest()
