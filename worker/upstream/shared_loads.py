"""SharedLoads: how many requests each worker has under way to each node, in memory that all workers share.

The master maps it before the first fork. Every worker has a row, with the number of its entry of the scoreboard, and
writes to no other; a node has the place in each row that its name hashes to. All words are aligned and have one
writer, so nobody locks. Two nodes may have the same place: then each looks busier to the other workers than it is, by
what they have under way to the other one (docs/decisions/0004-loads-shared-by-workers.md).
"""

import mmap
from zlib import crc32

ROWS = 256  # workers with higher numbers neither tell nor see
PLACES = 16_384
_HEADER_WORDS = 8
_USED = 0


class SharedLoads:
    """The rows of all workers."""

    def __init__(self, rows: int = ROWS, places: int = PLACES) -> None:
        # Pages that nobody has written to cost nothing.
        self._rows = rows
        self.places = places
        self.words: memoryview[int] = memoryview(mmap.mmap(-1, (_HEADER_WORDS + rows * places) * 8)).cast("q")

    # the master's part

    def open(self, number: int) -> None:
        """Let a row be read, before its worker lives."""
        if number < self._rows:
            self.words[_USED] = max(self.words[_USED], number + 1)

    def clear(self, number: int) -> None:
        """Forget what a worker had under way that is dead."""
        if number < self._rows:
            start = self._start(number)
            self.words[start : start + self.places] = memoryview(bytes(self.places * 8)).cast("q")

    # a worker's part

    def row(self, number: int) -> "LoadRow | None":
        """Return the row of a worker; None when there are more workers than rows."""
        return LoadRow(self, self._start(number)) if number < self._rows else None

    def total(self, place: int) -> int:
        """Return what all workers have under way to a place."""
        places = self.places
        return sum(self.words[_HEADER_WORDS + place : _HEADER_WORDS + self.words[_USED] * places : places])

    def _start(self, number: int) -> int:
        return _HEADER_WORDS + number * self.places


class LoadRow:
    """What one worker tells the others, and what it sees of them."""

    __slots__ = ("_loads", "counts")

    def __init__(self, loads: SharedLoads, start: int) -> None:
        self._loads = loads
        self.counts = loads.words[start : start + loads.places]  # by place

    def place(self, name: str) -> int:
        """Return the place of a node, by a name that all workers have for it."""
        return crc32(name.encode()) % self._loads.places

    def others(self, place: int) -> int:
        """Return what the other workers have under way to a place."""
        return self._loads.total(place) - self.counts[place]
