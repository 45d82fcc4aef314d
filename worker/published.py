"""Published: bytes that one process makes visible to all others as a whole, in memory that they share.

There are two places. The writer fills the one that nobody is sent to and then moves ``sequence``, whose last bit tells
which holds, so a writer that is stopped or killed half-way leaves the record before intact. A reader that was overtaken
twice sees it by the sequence, or, on machines that reorder stores, by the checksum, and reads again.
"""

import struct
from zlib import crc32

MAX_RECORD_BYTES = 4_088
_HEAD = struct.Struct("=II")  # length, CRC-32
_PLACE = _HEAD.size + MAX_RECORD_BYTES
RECORD_BYTES = 2 * _PLACE  # of memory
_READS = 100  # a record is given up after so many tries; one suffices but for a reader that was overtaken


class Published:
    """A record; for one writer."""

    __slots__ = ("_at", "_memory", "_sequence_at", "_words")

    def __init__(self, memory: memoryview, at: int, words: "memoryview[int]", sequence_at: int) -> None:
        """Have ``RECORD_BYTES`` of memory at a place, and one of the words for the sequence."""
        self._memory = memory
        self._at = at
        self._words = words
        self._sequence_at = sequence_at

    def write(self, record: bytes) -> None:
        """Replace the last record.

        Raises:
            ValueError: it is longer than ``MAX_RECORD_BYTES``.
        """
        if len(record) > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {len(record)} bytes; {MAX_RECORD_BYTES} is the limit")
        sequence = self._words[self._sequence_at] + 1
        start = self._place(sequence)
        written = _HEAD.pack(len(record), crc32(record)) + record
        self._memory[start : start + len(written)] = written
        self._words[self._sequence_at] = sequence

    def read(self) -> bytes:
        """Return the last record, whole; empty when there is none."""
        for _ in range(_READS):
            sequence = self._words[self._sequence_at]
            if not sequence:
                return b""
            start = self._place(sequence)
            place = bytes(self._memory[start : start + _PLACE])
            length, checksum = _HEAD.unpack_from(place)
            record = place[_HEAD.size : _HEAD.size + length]
            if sequence == self._words[self._sequence_at] and crc32(record) == checksum:
                return record
        return b""

    def _place(self, sequence: int) -> int:
        return self._at + (sequence & 1) * _PLACE
