"""Reads a standalone file in a process of its own: ``python -m config_sync.file_reader PATH``.

To parse 50 MB of YAML takes seconds in which a thread would hold the interpreter's lock, and so the event loop. Here
it costs a worker nothing but what comes through a pipe, already decoded and canonical: frames, each four bytes of
length (big endian) and a message in msgpack. First pages, last either Done or Fault, which say what file was read.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import BinaryIO

import msgspec

from config_sync.errors import StandaloneError
from config_sync.file_trace import Stamp
from config_sync.records import Entry
from config_sync.standalone import resources

_PAGE_BYTES = 65_536
_PAGE_ENTRIES = 100
_NICE = 5  # requests go first


class Page(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Some resources."""

    entries: list[Entry]


class Done(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The file has been read to its end."""

    file: Stamp
    warnings: list[str]


class Fault(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The file cannot be used, and what was wrong with it."""

    file: Stamp | None  # None: it could not even be opened
    reason: str


Frame = Page | Done | Fault
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


def content_revision(value: bytes) -> int:
    """Make the ``mod_revision`` of a value: a hash of it, of 50 bits.

    A file has no history that a worker born later could know, and workers must agree. So it is a function of the
    value alone: equal in every worker, the same as long as the value is. It is below every revision of a file (µs since
    1970, beyond 2**50 since 2005).
    """
    return 1 + (int.from_bytes(blake2b(value, digest_size=8).digest(), "big") >> 14)


def read_frames(stream: BinaryIO) -> Iterator[Frame]:
    """Read what the process writes.

    Raises:
        EOFError: it has ended before Done or Fault.
    """
    while True:
        head = stream.read(4)
        body = stream.read(int.from_bytes(head, "big"))
        if len(head) < 4 or len(body) < int.from_bytes(head, "big"):
            raise EOFError
        frame = _decode(body)
        yield frame
        if not isinstance(frame, Page):
            return


def frames_of(path: str, environment: Mapping[str, str]) -> Iterator[Frame]:
    """Read a file."""
    try:
        with open(path, "rb") as file:
            before = Stamp.of(os.fstat(file.fileno()))
            data = file.read()
            after = Stamp.of(os.fstat(file.fileno()))
    except OSError as error:
        yield Fault(None, f"cannot be read: {error.strerror}")
        return
    if before != after:
        yield Fault(before, "has been written to while it was read")
        return
    warnings: list[str] = []
    try:
        text = data.decode("utf-8-sig")
        del data
        yield from _pages(resources(text, environment, warnings.append))
    except StandaloneError as error:
        yield Fault(after, str(error))
    except UnicodeDecodeError as error:
        yield Fault(after, f"line {error.object.count(10, 0, error.start) + 1}: is no UTF-8 text: {error.reason}")
    else:
        yield Done(after, warnings)


def _pages(pairs: Iterable[tuple[str, bytes]]) -> Iterator[Page]:
    entries: list[Entry] = []
    size = 0
    for key, value in pairs:
        entries.append(Entry(key, value, content_revision(value)))
        size += len(value)
        if size >= _PAGE_BYTES or len(entries) >= _PAGE_ENTRIES:
            yield Page(entries)
            entries, size = [], 0
    if entries:
        yield Page(entries)


def main(path: str, output: BinaryIO) -> None:
    """Read a file and write frames."""
    os.nice(_NICE)
    for frame in frames_of(path, os.environ):
        body = _encode(frame)
        output.write(len(body).to_bytes(4, "big") + body)
    output.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(1)  # nobody wants it any more
