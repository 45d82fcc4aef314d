"""SharedCounters: counts that all workers share, and that outlive each of them.

    places (by key) │ tallies, one for each: a semaphore, since when │ a row of cells for each worker: what it holds

What is counted is taken from the semaphore of the key's place, in one atomic step: of a limit of 1,000 exactly 1,000
are given out, whoever asks at the same moment, and whoever dies.

What a worker holds (requests under way, for a limit of them) it adds to the cell that the place has in its own row,
where nobody else writes; the sum over all rows counts. The master clears the row of a worker that has died. A cell
names the generation of its place, so it counts for nobody else.

Only giving a key its place takes a lock. Who does not get it at once is told so (``Busy``) and is to ask again, or says
that it does not want to wait (``patient=False``) and goes on without.
"""

from collections.abc import Callable
from math import floor

from worker.shared_state.places import Places, nanoseconds
from worker.shared_state.semaphores import MOST, SEMAPHORE_WORDS, Semaphores

HOLD_TIME = 86_400.0  # seconds that a key keeps its place after something was last held …
IDLE_TIME = 5.0  # … and after nothing is held any more
TALLY_WORDS = SEMAPHORE_WORDS + 2
MAX_KNOWN = 65_536  # places that a worker remembers
REFUSED = -1
_SINCE = SEMAPHORE_WORDS
_ENOUGH = MOST // 2  # poured out of one place; then the next one begins
_TRIES = 5
_GENERATION_SHIFT = 32
_COUNT_MASK = (1 << 32) - 1
_SIGN = 1 << 31

Held = tuple[int, int]
Tally = tuple[int, int, int, int]
"""When it expires; the generation of its place, the word where that is, and the first word of its semaphore."""


class SharedCounters:
    """The counts, as one worker sees and changes them; see ``worker.shared_state.memory`` for where they are."""

    __slots__ = (
        "_clock",
        "_held",
        "_known",
        "_row",
        "_semaphores",
        "_stride",
        "_taken",
        "_tallies",
        "_used_at",
        "_words",
        "places",
    )

    def __init__(
        self,
        words: "memoryview[int]",
        semaphores: Semaphores,
        places: Places,
        tallies_at: int,
        rows_at: int,
        used_at: int,
        row: int,
        clock: Callable[[], int],
    ) -> None:
        """Hold in a row; the word at ``used_at`` tells how many are in use, ``clock`` nanoseconds all share."""
        self._words = words
        self._semaphores = semaphores
        self.places = places
        self._stride = places.count
        self._used_at = used_at
        self._row = row
        self._clock = clock
        self._tallies = tallies_at
        self._held = rows_at
        self._known: dict[bytes, tuple[int, int]] = {}  # place and generation by key …
        self._taken: dict[bytes, Tally] = {}  # … and what is taken from it

    def take(self, key: bytes, limit: int, window: float, patient: bool = True) -> tuple[int, float]:
        """Take one of the ``limit`` that there are for ``window`` seconds from when the first is taken.

        Returns:
            How many are left, ``REFUSED`` when there was none to take; and the seconds until there are all again.

        Raises:
            Busy: somebody else gives out a place at this moment.
        """
        now = self._clock()
        tally = self._taken.get(key)
        if tally is None or now >= tally[0]:
            tally = self._tally(key, limit, window, now, patient)
        while True:
            expires, generation, generation_at, at = tally
            left = self._semaphores.taken(at)
            if self._words[generation_at] == generation:
                return left, (expires - now) / 1e9
            if left != REFUSED:  # the place belongs to somebody else by now
                self._semaphores.give(at)
            tally = self._tally(key, limit, window, now, patient)

    def _tally(self, key: bytes, limit: int, window: float, now: int, patient: bool) -> "Tally":
        place, generation = self._find(key, nanoseconds(window), now, min(limit, MOST), patient)
        del self._known[key]  # the tally says more
        expires, generation_at = self.places.expires(place), self.places.generation_at(place)
        if len(self._taken) >= MAX_KNOWN:
            self._taken.clear()
        tally = self._taken[key] = expires, generation, generation_at, self._tallies + place * TALLY_WORDS
        return tally

    def slide(self, key: bytes, limit: int, window: float, time: float, patient: bool = True) -> tuple[int, float]:
        """Take one of ``limit`` for any ``window`` seconds, by the estimate of plugins.md section 5; as ``take``.

        Windows are aligned to the clock, which says ``time``.
        """
        number, within = divmod(time, window)
        before = self._counted(b"%b\0%d" % (key, number - 1)) * (1 - within / window)
        rest = window - within
        now, this = self._clock(), b"%b\0%d" % (key, number)
        place, _ = self._find(this, nanoseconds(2 * window), now, MOST, patient)
        at = self._tallies + place * TALLY_WORDS
        for _ in range(_TRIES):
            if MOST - self._semaphores.left(at) + 1 + before > limit:
                break
            self._semaphores.take(at)
            estimate = MOST - self._semaphores.left(at) + before
            if estimate <= limit:
                return floor(limit - estimate), rest
            self._semaphores.give(at)  # others have taken at the same moment
        return REFUSED, rest

    def pour(self, key: bytes, rate: float, burst: float, patient: bool = True) -> float:
        """Pour one into a bucket that leaks ``rate`` in a second; return what is in it before, ``REFUSED`` if too much.

        The bucket is what has been poured, less what has leaked since it was last empty.

        Raises:
            Busy: as ``take``.
        """
        now = self._clock()
        lifetime = nanoseconds((burst + 1) / rate + 1)
        place, _ = self._find(key, 2 * lifetime, now, MOST, patient)
        if self.places.expires(place) < now + lifetime:
            self.places.extend(place, now + 2 * lifetime)
        at = self._tallies + place * TALLY_WORDS
        for _ in range(_TRIES):
            poured = MOST - self._semaphores.left(at)
            excess = self._excess(at, poured, rate, now)
            if excess > burst or not self._semaphores.take(at):
                break
            excess = self._excess(at, MOST - self._semaphores.left(at) - 1, rate, now)
            if excess <= burst:
                if poured > _ENOUGH:
                    self.places.extend(place, now)
                return excess
            self._semaphores.give(at)  # others have poured at the same moment
        return REFUSED

    def hold(self, key: bytes, most: int = MOST, patient: bool = True) -> tuple[int, Held]:
        """Note that this worker holds one more of something, unless all hold as many as may be.

        Returns:
            What all hold, ``REFUSED`` if it would be more than ``most``; and what ``let_go`` is to be given then.

        Raises:
            Busy: as ``take``.
        """
        now, lifetime = self._clock(), nanoseconds(HOLD_TIME)
        place, generation = held = self._find(key, lifetime, now, 0, patient)
        for _ in range(_TRIES):
            self._add(place, generation, 1)
            count = self._sum(place, generation)
            if count <= most:
                # After it has been added: see let_go.
                if self.places.expires(place) < now + lifetime // 2:
                    self.places.extend(place, now + lifetime)
                return count, held
            self._add(place, generation, -1)
            if self._sum(place, generation) >= most:
                break  # else others have tried at the same moment
        return REFUSED, held

    def let_go(self, held: Held) -> None:
        """Note that this worker holds one less."""
        place, generation = held
        if self.places.generation(place) != generation:
            return
        if self._add(place, generation, -1) == 0 and self._sum(place, generation) == 0:
            # The place is soon free for another key, so that keys which come and go do not take all of them. Who holds
            # something from now on extends that; who did so before is seen here.
            now = self._clock()
            self.places.extend(place, now + nanoseconds(IDLE_TIME))
            if self._sum(place, generation):
                self.places.extend(place, now + nanoseconds(HOLD_TIME))

    def _find(self, key: bytes, lifetime: int, now: int, value: int, patient: bool) -> Held:
        """Return place and generation of a key; a new place begins with a ``value`` to take from."""
        known = self._known.get(key)
        if known is not None and self.places.is_live(*known, now):
            return known
        place = self.places.find(key, now)
        if place is None:
            place = self.places.claim(key, lifetime, now, lambda place: self._begin(place, value, now), patient)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        found = self._known[key] = place, self.places.generation(place)
        return found

    def _begin(self, place: int, value: int, now: int) -> None:
        at = self._tallies + place * TALLY_WORDS
        self._semaphores.begin(at, value)
        self._words[at + _SINCE] = now

    def _counted(self, key: bytes) -> int:
        """Return how many have been taken of a place that began with all; 0 when it has ended."""
        place = self.places.find(key, self._clock())
        return 0 if place is None else MOST - self._semaphores.left(self._tallies + place * TALLY_WORDS)

    def _excess(self, at: int, poured: int, rate: float, now: int) -> float:
        """Return what is in a bucket; one that has run dry begins to leak anew."""
        excess = poured - (now - self._words[at + _SINCE]) * rate / 1e9
        if excess < 0:
            self._words[at + _SINCE] = now - int(poured * 1e9 / rate)
            return 0.0
        return excess

    def _add(self, place: int, generation: int, by: int) -> int:
        """Change what this worker holds, and return it."""
        at = self._held + self._row * self._stride + place
        cell = self._words[at]
        count = by + (_count(cell) if cell >> _GENERATION_SHIFT == generation else 0)
        self._words[at] = generation << _GENERATION_SHIFT | count & _COUNT_MASK
        return count

    def _sum(self, place: int, generation: int) -> int:
        stride = self._stride
        cells = self._words[self._held + place : self._held + self._words[self._used_at] * stride : stride].tolist()
        return max(0, sum([_count(cell) for cell in cells if cell >> _GENERATION_SHIFT == generation]))


def _count(cell: int) -> int:
    return ((cell & _COUNT_MASK) ^ _SIGN) - _SIGN
