"""The scoreboard: what master and workers know of each other, in memory that they share.

It is mapped before the first fork, and the master gives every worker an entry for its life: while a reload drains,
a slot has several workers. Every field is one aligned 64-bit word with one writer, so nobody locks.

An entry also has a record: bytes that its worker publishes as a whole. There are two places for it. The writer fills
the one that nobody is sent to and then moves ``sequence``, whose last bit tells which holds, so a writer that is
stopped or killed half-way leaves the record before intact. A reader that was overtaken twice sees it by the sequence,
or, on machines that reorder stores, by the checksum, and reads again.
"""

import errno
import mmap
import struct
import time
from enum import IntEnum
from zlib import crc32

from worker.upstream.health.table import HealthTable
from worker.upstream.shared_loads import SharedLoads

MAX_ENTRIES = 4_096
MAX_RECORD_BYTES = 4_088
_FIELDS = (
    "pid",
    "generation",
    "state",
    "revision",
    "connections",
    "requests",
    "accepted",
    "heartbeat_ns",
    "slot",
    "store",
)
_SEQUENCE = len(_FIELDS)
_ENTRY_WORDS = 16
_HEADER_WORDS = 8
_USED, _SLOTS, _CONFIRMED_NS, _PROMISED = range(4)
_RECORD_HEAD = struct.Struct("=II")  # length, CRC-32
_RECORD_PLACE = _RECORD_HEAD.size + MAX_RECORD_BYTES
_READS = 100  # a record is given up after so many tries; one suffices but for a reader that was overtaken


class WorkerState(IntEnum):
    """Where a worker stands in its life."""

    EXITED = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


def _field(at: int) -> property:
    def read(entry: "Entry") -> int:
        return entry.words[entry.base + at]

    def write(entry: "Entry", value: int) -> None:
        entry.words[entry.base + at] = value

    return property(read, write)


class Entry:
    """One worker's line; ``heartbeat_ns`` is of the monotonic clock.

    Revisions can be compared between entries whose ``store`` is the same.
    """

    __slots__ = ("_places", "base", "board", "number", "words")

    def __init__(self, board: "Scoreboard", number: int) -> None:
        self.board = board
        self.number = number
        self.words = board.words
        self.base = _HEADER_WORDS + number * _ENTRY_WORDS
        self._places = board.records_at + number * 2 * _RECORD_PLACE

    pid, generation, state, revision, connections, requests, accepted, heartbeat_ns, slot, store = map(
        _field, range(len(_FIELDS))
    )

    def publish(self, record: bytes) -> None:
        """Make a record visible to all processes, in place of the last; only for the entry's own worker.

        Raises:
            ValueError: it is longer than ``MAX_RECORD_BYTES``.
        """
        if len(record) > MAX_RECORD_BYTES:
            raise ValueError(f"a record of {len(record)} bytes; {MAX_RECORD_BYTES} is the limit")
        sequence = self.words[self.base + _SEQUENCE] + 1
        start = self._place(sequence)
        written = _RECORD_HEAD.pack(len(record), crc32(record)) + record
        self.board.memory[start : start + len(written)] = written
        self.words[self.base + _SEQUENCE] = sequence

    def published(self) -> bytes:
        """Return the last record, whole; empty when there is none."""
        for _ in range(_READS):
            sequence = self.words[self.base + _SEQUENCE]
            if not sequence:
                return b""
            start = self._place(sequence)
            place = bytes(self.board.memory[start : start + _RECORD_PLACE])
            length, checksum = _RECORD_HEAD.unpack_from(place)
            record = place[_RECORD_HEAD.size : _RECORD_HEAD.size + length]
            if sequence == self.words[self.base + _SEQUENCE] and crc32(record) == checksum:
                return record
        return b""

    def _place(self, sequence: int) -> int:
        return self._places + (sequence & 1) * _RECORD_PLACE

    def __repr__(self) -> str:
        """Show pid, generation and state."""
        return f"<Entry pid {self.pid} generation {self.generation} {WorkerState(self.state).name}>"


class Scoreboard:
    """The entries of all workers, and the health of what they send requests to."""

    def __init__(self, entries: int = MAX_ENTRIES) -> None:
        self.health = HealthTable(entries)
        # Pages that nobody has written to cost nothing.
        self.records_at = (_HEADER_WORDS + entries * _ENTRY_WORDS) * 8
        self.memory = memoryview(mmap.mmap(-1, self.records_at + entries * 2 * _RECORD_PLACE))
        self.words: memoryview[int] = self.memory[: self.records_at].cast("q")
        self.loads = SharedLoads()
        self._free = list(reversed(range(entries)))

    # the master's part

    def allocate(self, slot: int, generation: int, store: int = 0) -> Entry:
        """Give an entry to a worker that is about to live.

        Raises:
            OSError: all are in use, most of them by workers that drain.
        """
        if not self._free:
            raise OSError(errno.EAGAIN, f"there are {MAX_ENTRIES} workers already, with those that drain")
        entry = Entry(self, self._free.pop())
        for at in range(_ENTRY_WORDS):
            self.words[entry.base + at] = 0
        entry.slot, entry.generation, entry.store = slot, generation, store
        entry.state = WorkerState.STARTING
        self.words[_USED] = max(self.words[_USED], entry.number + 1)
        self.loads.open(entry.number)
        return entry

    def release(self, entry: Entry) -> None:
        """Take back the entry of a worker that is dead."""
        entry.state = WorkerState.EXITED
        self.loads.clear(entry.number)
        self._free.append(entry.number)

    def set_slots(self, count: int) -> None:
        """Tell how many slots there are."""
        self.words[_SLOTS] = count

    # everybody's part

    @property
    def used(self) -> int:
        """The entries with lower numbers than this have had a worker."""
        return self.words[_USED]

    @property
    def slots(self) -> int:
        """How many slots are to have a worker."""
        return self.words[_SLOTS]

    def living(self) -> list[Entry]:
        """Return the entries of the workers there are, by slot and generation."""
        entries = [Entry(self, number) for number in range(self.used)]
        found = [entry for entry in entries if entry.state != WorkerState.EXITED]
        return sorted(found, key=lambda entry: (entry.slot, entry.generation))

    def ready(self) -> list[Entry]:
        """Return the entries of the workers that accept clients."""
        return [entry for entry in self.living() if entry.state == WorkerState.READY]

    def promise(self, revision: int) -> None:
        """Note that somebody is told that every worker which accepts has this revision."""
        self.words[_PROMISED] = max(self.words[_PROMISED], revision)

    def owed(self, store: int = 0) -> int:
        """Return the revision below which a worker of a store must not begin to accept, or it would break a promise.

        No more than what others have: a store that was restored from a backup counts from a lower revision again.
        """
        highest = max((entry.revision for entry in self.ready() if entry.store == store), default=0)
        return min(self.words[_PROMISED], highest)

    def confirm(self) -> None:
        """Let every reload pass that a worker holds back now."""
        self.words[_CONFIRMED_NS] = time.monotonic_ns()

    @property
    def confirmed_at(self) -> float:
        """When somebody has last confirmed, in seconds of the monotonic clock; 0: never."""
        return self.words[_CONFIRMED_NS] / 1e9
