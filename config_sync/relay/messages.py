"""What leader and follower say to each other: frames of MessagePack behind their length, 4 bytes, big endian.

    follower                       leader
                              ◄─── Welcome
    Hello(revision, …)        ───►
                              ◄─── Progress                    equal already, or after the next
                              ◄─── Batch, …                    what the follower lacks
                              ◄─── Page, …, Complete           everything
                              ◄─── Batch, Progress, …          what happens from now on
                              ◄─── Compare                     say Hello again
                              ◄─── Heartbeat                   nothing to say, but alive

``digest`` is the sum of all directories' digests (``config_sync.digest``): that of everything a worker holds. It
comes with whatever completes a revision, so a follower knows after each of them whether it holds the same.
Keys are bytes, as they are in the store; values are as in the store, valid or not.
"""

from collections.abc import Iterable, Sequence

import msgspec

from config_sync.cache import Deletion, Entry, Event
from config_sync.digest import MODULUS
from config_sync.errors import ConfigError

VERSION = 2
LENGTH_BYTES = 4
MAX_FRAME_BYTES = 1 << 26  # far above the largest value; a length beyond it is no length
DIGEST_BYTES = (MODULUS - 1).bit_length() // 8


class RelayError(ConfigError):
    """What came over the socket is no message."""


class Record(msgspec.Struct, array_like=True, gc=False):
    """A change of a key; without a value it is gone."""

    key: bytes
    mod_revision: int
    value: bytes | None = None
    create_revision: int = 0
    version: int = 0
    good: bytes | None = None  # the last valid value, when ``value`` is not valid and there was one


class Welcome(msgspec.Struct, array_like=True, tag=0):
    """The first word of a leader."""

    pid: int


class Heartbeat(msgspec.Struct, array_like=True, tag=1):
    """The leader is alive."""


class Batch(msgspec.Struct, array_like=True, tag=2):
    """Changes up to ``revision``; with ``more`` they go on in the next frame and are not whole yet."""

    records: list[Record]
    revision: int
    digest: bytes
    more: bool = False


class Progress(msgspec.Struct, array_like=True, tag=3):
    """All there is up to ``revision`` has been sent."""

    revision: int
    digest: bytes


class Page(msgspec.Struct, array_like=True, tag=4):
    """A part of a complete snapshot."""

    records: list[Record]
    first: bool


class Complete(msgspec.Struct, array_like=True, tag=5):
    """The pages since the first were everything, at ``revision``."""

    revision: int
    digest: bytes


class Compare(msgspec.Struct, array_like=True, tag=6):
    """The leader cannot go on from where the follower stands: say Hello again."""


class Hello(msgspec.Struct, array_like=True, tag=0):
    """Where a follower stands."""

    revision: int
    digest: bytes
    stale: bool = False  # it is from disk, and what its revision counts is not known


FromLeader = Welcome | Heartbeat | Batch | Progress | Page | Complete | Compare

_ENCODER = msgspec.msgpack.Encoder()
_FROM_LEADER: msgspec.msgpack.Decoder[FromLeader] = msgspec.msgpack.Decoder(FromLeader)
_FROM_FOLLOWER: msgspec.msgpack.Decoder[Hello] = msgspec.msgpack.Decoder(Hello)


def frame(message: FromLeader | Hello) -> bytes:
    """Encode a message, behind its length."""
    buffer = bytearray(LENGTH_BYTES)
    _ENCODER.encode_into(message, buffer, LENGTH_BYTES)
    buffer[:LENGTH_BYTES] = (len(buffer) - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "big")
    return bytes(buffer)


def read_from_leader(payload: bytes) -> FromLeader:
    """Decode what a leader says; raises RelayError."""
    try:
        return _FROM_LEADER.decode(payload)
    except msgspec.MsgspecError as error:
        raise RelayError(f"the leader sent what is no message: {error}") from error


def read_from_follower(payload: bytes) -> Hello:
    """Decode what a follower says; raises RelayError."""
    try:
        return _FROM_FOLLOWER.decode(payload)
    except msgspec.MsgspecError as error:
        raise RelayError(f"a follower sent what is no message: {error}") from error


def pack_digest(digest: int) -> bytes:
    """Write a digest as it stands in a message."""
    return digest.to_bytes(DIGEST_BYTES, "big")


def record_of(event: Event) -> Record:
    """Write an event as it stands in a message."""
    key = event.key.encode("utf-8", "surrogateescape")
    if isinstance(event, Deletion):
        return Record(key, event.mod_revision)
    return Record(key, event.mod_revision, event.value, event.create_revision, event.version)


def event_of(record: Record) -> Event:
    """Read an event."""
    key = record.key.decode("utf-8", "surrogateescape")
    if record.value is None:
        return Deletion(key, record.mod_revision)
    return Entry(key, record.value, record.mod_revision, record.create_revision, record.version)


def size_of(event: Event) -> int:
    """Estimate the bytes an event takes in a frame."""
    return len(event.key) + 32 + (len(event.value) if isinstance(event, Entry) else 0)


def split(events: Iterable[Event], limit: int) -> list[Sequence[Event]]:
    """Cut events into parts of about ``limit`` bytes; of no events there is one part, empty."""
    parts: list[Sequence[Event]] = []
    part: list[Event] = []
    size = 0
    for event in events:
        if size >= limit:
            parts.append(part)
            part, size = [], 0
        part.append(event)
        size += size_of(event)
    parts.append(part)
    return parts


class FrameSplitter:
    """Cuts a stream into the payloads of frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the payloads they complete.

        Raises:
            RelayError: a length is none.
        """
        buffer = self._buffer
        buffer += data
        payloads: list[bytes] = []
        at = 0
        while len(buffer) - at >= LENGTH_BYTES:
            length = int.from_bytes(buffer[at : at + LENGTH_BYTES], "big")
            if length > MAX_FRAME_BYTES:
                raise RelayError(f"a frame of {length} bytes is announced; {MAX_FRAME_BYTES} is the most there can be")
            end = at + LENGTH_BYTES + length
            if end > len(buffer):
                break
            payloads.append(bytes(buffer[at + LENGTH_BYTES : end]))
            at = end
        del buffer[:at]
        return payloads
