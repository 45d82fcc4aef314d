"""Places: which place in shared memory belongs to a key, and until when.

    buckets of WAYS places │ a place: key (2 words) │ expires │ generation

A key can be in one bucket only. Whoever gives a place to a key holds the bucket's lock; whoever looks for one needs
none. The generation is another one, by chance, each time a place is given away, so what belongs to its former key is
never taken for that of the new one. It is written last: a process that dies half-way leaves a place that is free. When
all of a bucket are taken, the one that expires first is given away.
"""

from collections.abc import Callable
from hashlib import blake2b
from secrets import randbits
from struct import Struct

from worker.shared_state.locks import Locks

WAYS = 8
PLACE_WORDS = 4
LONGEST = 1e9  # seconds
_KEY = Struct("=qq")
_A, _B, _EXPIRES, _GENERATION = range(PLACE_WORDS)
_GENERATION_BITS = 31


class Places:
    """The places of one kind of things; times are nanoseconds of the monotonic clock."""

    __slots__ = ("_at", "_first_lock", "_locks", "_words", "buckets", "count", "evicted", "unlocked")

    def __init__(self, words: "memoryview[int]", at: int, buckets: int, locks: Locks, first_lock: int) -> None:
        """Use ``buckets * WAYS * PLACE_WORDS`` words from ``at`` on, and a lock for each bucket from a number on."""
        self._words = words
        self._at = at
        self._locks = locks
        self._first_lock = first_lock
        self.buckets = buckets
        self.count = buckets * WAYS
        self.evicted = 0  # places that we have given away before their time
        self.unlocked = 0  # … and without the lock

    def is_live(self, place: int, generation: int, now: int) -> bool:
        """Tell whether a place still belongs to whom it belonged in a generation."""
        head = self._at + place * PLACE_WORDS
        return self._words[head + _GENERATION] == generation and self._words[head + _EXPIRES] > now

    def generation(self, place: int) -> int:
        """Return what tells apart those that have the place one after the other."""
        return self._words[self.generation_at(place)]

    def generation_at(self, place: int) -> int:
        """Return the word in which that is."""
        return self._at + place * PLACE_WORDS + _GENERATION

    def expires(self, place: int) -> int:
        """Return until when a place belongs to its key."""
        return self._words[self._at + place * PLACE_WORDS + _EXPIRES]

    def extend(self, place: int, expires: int) -> None:
        """Let a place belong to its key for longer."""
        self._words[self._at + place * PLACE_WORDS + _EXPIRES] = expires

    def find(self, key: bytes, now: int) -> int | None:
        """Return the place of a key; None when it has none."""
        a, b, bucket = self._split(key)
        return self._find(a, b, bucket, now)

    def claim(self, key: bytes, lifetime: int, now: int, fill: Callable[[int], None], patient: bool = False) -> int:
        """Return the place of a key, which is given one for ``lifetime`` if it has none.

        ``fill`` is given a new place before it is seen.

        Raises:
            Busy: the lock is somebody else's, and we are ``patient``.
        """
        a, b, bucket = self._split(key)
        is_locked = self._locks.acquire(self._first_lock + bucket, patient)
        try:
            place = self._find(a, b, bucket, now)
            if place is None:
                place = self._give(a, b, bucket, now)
                fill(place)
                self._begin(place, now + lifetime, _new_generation())
                self.unlocked += not is_locked
            return place
        finally:
            if is_locked:
                self._locks.release(self._first_lock + bucket)

    def replace(
        self, key: bytes, lifetime: int, now: int, fill: Callable[[int, int], None], patient: bool = False
    ) -> None:
        """Begin another generation of a key; ``fill`` is given its place and the generation before it is seen.

        Raises:
            Busy: the lock is somebody else's, and we are ``patient``.
        """
        a, b, bucket = self._split(key)
        is_locked = self._locks.acquire(self._first_lock + bucket, patient)
        try:
            place = self._find(a, b, bucket, now)
            if place is None:
                place = self._give(a, b, bucket, now)
            generation = _new_generation()
            fill(place, generation)
            self._begin(place, now + lifetime, generation)
            self.unlocked += not is_locked
        finally:
            if is_locked:
                self._locks.release(self._first_lock + bucket)

    def _split(self, key: bytes) -> tuple[int, int, int]:
        a, b = _KEY.unpack(blake2b(key, digest_size=_KEY.size).digest())
        return a, b, a % self.buckets

    def _find(self, a: int, b: int, bucket: int, now: int) -> int | None:
        start = self._at + bucket * WAYS * PLACE_WORDS
        words = self._words[start : start + WAYS * PLACE_WORDS].tolist()
        if a in words:
            for way in range(WAYS):
                first, second, expires, generation = words[way * PLACE_WORDS : (way + 1) * PLACE_WORDS]
                if first == a and second == b and generation and expires > now:
                    return bucket * WAYS + way
        return None

    def _give(self, a: int, b: int, bucket: int, now: int) -> int:
        words = self._words
        start = self._at + bucket * WAYS * PLACE_WORDS
        heads = range(start, start + WAYS * PLACE_WORDS, PLACE_WORDS)
        head = min(heads, key=lambda head: words[head + _EXPIRES] if words[head + _GENERATION] else 0)
        if words[head + _GENERATION] and words[head + _EXPIRES] > now:
            self.evicted += 1
        words[head + _GENERATION] = 0
        words[head + _A], words[head + _B] = a, b
        return (head - self._at) // PLACE_WORDS

    def _begin(self, place: int, expires: int, generation: int) -> None:
        head = self._at + place * PLACE_WORDS
        self._words[head + _EXPIRES] = expires
        self._words[head + _GENERATION] = generation


def nanoseconds(seconds: float) -> int:
    """Convert a duration, of at most ``LONGEST``."""
    return int(min(seconds, LONGEST) * 1e9)


def _new_generation() -> int:
    return 1 + randbits(_GENERATION_BITS) % ((1 << _GENERATION_BITS) - 1)
