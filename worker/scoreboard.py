"""The scoreboard: what master and workers know of each other, in memory that they share.

It is mapped before the first fork, and the master gives every worker an entry for its life: while a reload drains,
a slot has several workers. Every field is one aligned 64-bit word with one writer, so nobody locks.
"""

import mmap
from enum import IntEnum

MAX_ENTRIES = 4_096
_FIELDS = ("pid", "generation", "state", "revision", "connections", "requests", "accepted", "heartbeat_ns")


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
    """One worker's line; ``heartbeat_ns`` is of the monotonic clock."""

    __slots__ = ("base", "words")

    def __init__(self, words: "memoryview[int]", base: int) -> None:
        self.words = words
        self.base = base

    pid, generation, state, revision, connections, requests, accepted, heartbeat_ns = map(_field, range(8))

    def __repr__(self) -> str:
        """Show pid, generation and state."""
        return f"<Entry pid {self.pid} generation {self.generation} {WorkerState(self.state).name}>"


class Scoreboard:
    """The entries of all workers."""

    def __init__(self, entries: int = MAX_ENTRIES) -> None:
        self._memory = mmap.mmap(-1, entries * len(_FIELDS) * 8)
        self._words: memoryview[int] = memoryview(self._memory).cast("q")
        self._free = [at * len(_FIELDS) for at in reversed(range(entries))]

    def allocate(self, generation: int) -> Entry:
        """Give an entry to a worker that is about to live."""
        entry = Entry(self._words, self._free.pop())
        for at in range(len(_FIELDS)):
            self._words[entry.base + at] = 0
        entry.generation, entry.state = generation, WorkerState.STARTING
        return entry

    def release(self, entry: Entry) -> None:
        """Take back the entry of a worker that is dead."""
        entry.state = WorkerState.EXITED
        self._free.append(entry.base)
