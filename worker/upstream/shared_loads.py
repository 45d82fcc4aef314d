"""SharedLoads: what each worker has under way to each node, and how quick the node is, in memory that all share.

The master maps it before the first fork. Every worker has a row, with the number of its entry of the scoreboard, and
writes to no other; a node has the place in each row that its name hashes to. All words are aligned and have one
writer, so nobody locks. Two nodes may have the same place: then each looks busier to the other workers than it is, by
what they have under way to the other one (docs/decisions/0004-loads-shared-by-workers.md).

Response times are there for workers that begin: they go on from what the others, or those before them, have measured.
Later each goes by its own.
"""

import mmap
from zlib import crc32

ROWS = 256  # workers with higher numbers neither tell nor see
PLACES = 16_384
_HEADER_WORDS = 8
_USED = 0
_TIME_BITS = 32
_TIME_MASK = (1 << _TIME_BITS) - 1
_TICKS = 10  # of the time of a sample in a second
_MICROS = 1_000_000


class SharedLoads:
    """The rows of all workers."""

    def __init__(self, rows: int = ROWS, places: int = PLACES) -> None:
        # Pages that nobody has written to cost nothing.
        self._rows = rows
        self.places = places
        self.words: memoryview[int] = memoryview(mmap.mmap(-1, (_HEADER_WORDS + 2 * rows * places) * 8)).cast("q")

    # the master's part

    def open(self, number: int) -> None:
        """Let a row be read, before its worker lives."""
        if number < self._rows:
            self.words[_USED] = max(self.words[_USED], number + 1)

    def clear(self, number: int) -> None:
        """Forget what a worker had under way that is dead; what it has measured may still be of use."""
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

    def measured(self, place: int) -> list[int]:
        """Return what workers have last measured for a place, dead ones too."""
        places = self.places
        start = _HEADER_WORDS + self._rows * places
        return self.words[start + place : start + self.words[_USED] * places : places].tolist()

    def measures(self, start: int) -> "memoryview[int]":
        """Return the measures in the row whose counts begin at ``start``."""
        start += self._rows * self.places
        return self.words[start : start + self.places]

    def _start(self, number: int) -> int:
        return _HEADER_WORDS + number * self.places


class LoadRow:
    """What one worker tells the others, and what it sees of them."""

    __slots__ = ("_loads", "_measures", "counts")

    def __init__(self, loads: SharedLoads, start: int) -> None:
        self._loads = loads
        self.counts = loads.words[start : start + loads.places]  # by place
        self._measures = loads.measures(start)

    def place(self, name: str) -> int:
        """Return the place of a node, by a name that all workers have for it."""
        return crc32(name.encode()) % self._loads.places

    def others(self, place: int) -> int:
        """Return what the other workers have under way to a place."""
        return self._loads.total(place) - self.counts[place]

    def tell(self, place: int, average: float, at: float) -> None:
        """Let workers that begin know a response time, in seconds, as it was at a time of the monotonic clock."""
        micros, ticks = min(int(average * _MICROS), _TIME_MASK >> 1), int(at * _TICKS) & _TIME_MASK
        self._measures[place] = micros << _TIME_BITS | ticks

    def measured(self, place: int, since: float) -> tuple[float, float] | None:
        """Return the mean of the response times that workers have measured since a time, and when the last of them was.

        None when nobody has.
        """
        told = [divmod(word, 1 << _TIME_BITS) for word in self._loads.measured(place) if word]
        recent = [(micros, ticks / _TICKS) for micros, ticks in told if ticks / _TICKS > since]
        if not recent:
            return None
        return sum(micros for micros, _ in recent) / len(recent) / _MICROS, max(at for _, at in recent)
