"""SharedCounters: counts that all workers share, and that outlive each of them.

    places (by key) │ a row of cells for each worker: counts │ another row for each: what it holds

A worker adds to the cell that the key's place has in its own row, and nobody else writes there: no addition is ever
lost, whoever dies or is stopped, and nobody waits. The count is the sum over all rows. A cell names the generation of
its place, so it counts for nobody else. The next worker with the same row goes on with it.

What a worker holds (requests under way, for a limit of them) is in rows that the master clears when it has died.
"""

from collections.abc import Callable

from worker.shared_state.places import Places, nanoseconds

HOLD_TIME = 3_600.0  # seconds that a key keeps its place after something was last held or let go
MAX_KNOWN = 100_000  # places that a worker remembers
_GENERATION_SHIFT = 32
_COUNT_MASK = (1 << 32) - 1
_SIGN = 1 << 31


class SharedCounters:
    """The counts, as one worker sees and changes them; see ``worker.shared_state.memory`` for where they are."""

    __slots__ = ("_clock", "_counts", "_held", "_known", "_places", "_row", "_stride", "_used_at", "_words")

    def __init__(
        self,
        words: "memoryview[int]",
        places: Places,
        rows_at: int,
        used_at: int,
        row: int,
        rows: int,
        clock: Callable[[], int],
    ) -> None:
        """Count in a row; the word at ``used_at`` tells how many are in use, ``clock`` nanoseconds all share."""
        self._words = words
        self._places = places
        self._stride = places.count
        self._used_at = used_at
        self._row = row
        self._clock = clock
        self._counts = rows_at
        self._held = rows_at + rows * places.count
        self._known: dict[bytes, tuple[int, int]] = {}  # place and generation by key

    def increment(self, key: bytes, window: float, by: int = 1) -> tuple[int, float]:
        """Count, and return the count and when it ends, in seconds of the monotonic clock.

        A count that has not been begun, or has ended, begins at 0 and ends ``window`` seconds from now. When several
        workers count at the same moment, each may see what the others have added: more than its own turn, never less.
        """
        place, generation = self._find(key, nanoseconds(window), self._clock())
        self._add(self._counts, place, generation, by)
        return self._sum(self._counts, place, generation), self._places.expires(place) / 1e9

    def count(self, key: bytes) -> int:
        """Return a count as it is; 0 when it has ended."""
        place = self._places.find(key, self._clock())
        return 0 if place is None else self._sum(self._counts, place, self._places.generation(place))

    def hold(self, key: bytes, by: int = 1) -> int:
        """Note that this worker holds one more of something, or with ``by=-1`` one less; return what all hold."""
        now, lifetime = self._clock(), nanoseconds(HOLD_TIME)
        place, generation = self._find(key, lifetime, now)
        if self._places.expires(place) < now + lifetime // 2:
            self._places.extend(place, now + lifetime)
        self._add(self._held, place, generation, by)
        return self._sum(self._held, place, generation)

    def _find(self, key: bytes, lifetime: int, now: int) -> tuple[int, int]:
        known = self._known.get(key)
        if known is not None and self._places.is_live(*known, now):
            return known
        place = self._places.find(key, now)
        if place is None:
            place = self._places.claim(key, lifetime, now)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        found = self._known[key] = place, self._places.generation(place)
        return found

    def _add(self, rows_at: int, place: int, generation: int, by: int) -> None:
        at = rows_at + self._row * self._stride + place
        cell = self._words[at]
        count = by + (_count(cell) if cell >> _GENERATION_SHIFT == generation else 0)
        self._words[at] = generation << _GENERATION_SHIFT | count & _COUNT_MASK

    def _sum(self, rows_at: int, place: int, generation: int) -> int:
        stride = self._stride
        cells = self._words[rows_at + place : rows_at + self._words[self._used_at] * stride : stride].tolist()
        return max(0, sum([_count(cell) for cell in cells if cell >> _GENERATION_SHIFT == generation]))


def _count(cell: int) -> int:
    return ((cell & _COUNT_MASK) ^ _SIGN) - _SIGN
