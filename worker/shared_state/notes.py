"""SharedNotes: a few bytes by key, for a time, that all workers see (states of circuit breakers, for example).

    places (by key) │ two notes for each: generation │ length and checksum │ bytes

The note that counts is the one of the place's generation. Who writes holds the bucket's lock, writes the other one, and
then moves the generation; who reads needs no lock. A process that dies while it writes leaves the note before.
"""

from collections.abc import Callable
from zlib import crc32

from worker.shared_state.places import Places, nanoseconds

MAX_NOTE_BYTES = 240
NOTE_WORDS = 2 + MAX_NOTE_BYTES // 8
_READS = 10


class SharedNotes:
    """The notes, as one process sees and changes them."""

    __slots__ = ("_at", "_clock", "_memory", "_words", "places")

    def __init__(
        self, memory: memoryview, words: "memoryview[int]", places: Places, at: int, clock: Callable[[], int]
    ) -> None:
        """Keep them in the words from ``at`` on; ``clock`` tells nanoseconds that all processes share."""
        self._memory = memory
        self._words = words
        self.places = places
        self._at = at
        self._clock = clock

    def put(self, key: bytes, note: bytes, ttl: float) -> None:
        """Note bytes for ``ttl`` seconds, in place of what was noted before.

        Raises:
            ValueError: they are more than ``MAX_NOTE_BYTES``.
        """
        self.update(key, lambda _: note, ttl, patient=False)

    def update(self, key: bytes, change: Callable[[bytes | None], bytes], ttl: float, patient: bool = True) -> None:
        """Note for ``ttl`` seconds what ``change`` makes of what was noted before, with nobody in between.

        Raises:
            Busy: somebody else notes something at this moment, and we are ``patient``.
            ValueError: it is more than ``MAX_NOTE_BYTES``.
        """

        def fill(place: int, generation: int) -> None:
            note = change(self._noted(place))
            if len(note) > MAX_NOTE_BYTES:
                raise ValueError(f"a note of {len(note)} bytes; {MAX_NOTE_BYTES} is the limit")
            at = self._other(place)
            start = (at + 2) * 8
            self._memory[start : start + len(note)] = note
            self._words[at + 1] = len(note) << 32 | crc32(note)
            self._words[at] = generation

        self.places.replace(key, nanoseconds(ttl), self._clock(), fill, patient)

    def now(self) -> int:
        """Return the nanoseconds of the clock that all processes share."""
        return self._clock()

    def get(self, key: bytes) -> bytes | None:
        """Return what is noted; None when nothing is, or its time is over."""
        for _ in range(_READS):
            place = self.places.find(key, self._clock())
            if place is None:
                return None
            note = self._noted(place)
            if note is not None:
                return note
        return None

    def _noted(self, place: int) -> bytes | None:
        """Return the note of a place; None when there is none, or another takes its place."""
        generation = self.places.generation(place)
        at = self._current(place, generation) if generation else None
        if at is None:
            return None
        length, checksum = divmod(self._words[at + 1], 1 << 32)
        start = (at + 2) * 8
        note = bytes(self._memory[start : start + length])
        return note if crc32(note) == checksum else None

    def _current(self, place: int, generation: int) -> int | None:
        first = self._at + place * 2 * NOTE_WORDS
        return next((at for at in (first, first + NOTE_WORDS) if self._words[at] == generation), None)

    def _other(self, place: int) -> int:
        first = self._at + place * 2 * NOTE_WORDS
        return first + NOTE_WORDS if self._words[first] == self.places.generation(place) else first
