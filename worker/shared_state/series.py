"""SharedSeries: numbers by key that all workers add to, and that outlive each of them: what metrics are made of.

    header │ digests of keys, 0: none │ places: version, length of the key, when it was added to, cells, key

Adding is rare (once a second for each worker) and is done under one lock, for which nobody waits: who does not get it
keeps what he has, and comes again. Reading needs no lock; a number may be of the moment before another one.

A place whose version is odd is in use. The version changes when it is given away, so who remembers a place notices.
"""

import mmap
import os
import struct
import time
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import NamedTuple

from worker.shared_state.locks import Locks

PLACES = 16_384
CELLS = 80  # numbers of a place
WINDOW = 64  # places in which a key may be
RING = 1_024  # revisions whose first appearance is remembered
_VERSION, _LENGTH, _TOUCHED, _CELLS_AT = range(4)
_PLACE_BYTES = 1_536
_PLACE_WORDS = _PLACE_BYTES // 8
_KEY_AT = (_CELLS_AT + CELLS) * 8
MAX_KEY_BYTES = _PLACE_BYTES - _KEY_AT
_HEADER_WORDS = 512
_USED, _REFUSED = 0, 1
_RING_AT = _HEADER_WORDS
_DIGESTS_AT = _RING_AT + 2 * RING
_LOCK = 0
_CELLS = struct.Struct(f"={CELLS}q")


class Place(NamedTuple):
    """Where a key is, and in which version of the place."""

    number: int
    version: int


class Stored(NamedTuple):
    """What a place holds; ``touched`` in seconds of the monotonic clock."""

    place: Place
    key: bytes
    cells: tuple[int, ...]
    touched: int


class SharedSeries:
    """The table; mapped by the master, before the first fork."""

    def __init__(self, places: int = PLACES, clock: Callable[[], float] = time.monotonic) -> None:
        """Map it; pages that nobody has written to cost nothing."""
        self._places_at = _DIGESTS_AT + places
        size = (self._places_at + places * _PLACE_WORDS) * 8
        fd = os.memfd_create("propylon-series")
        os.ftruncate(fd, size)
        self.places = places
        self._clock = clock
        self._memory = memoryview(mmap.mmap(fd, size))
        self._words: memoryview[int] = self._memory.cast("q")
        self._locks = Locks(fd)

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(self._memory)

    @property
    def free_bytes(self) -> int:
        """The bytes of the places that are not in use."""
        return (self.places - self.used) * _PLACE_BYTES

    @property
    def used(self) -> int:
        """How many places are in use."""
        return self._words[_USED]

    @property
    def refused(self) -> int:
        """How often there was no place for a key."""
        return self._words[_REFUSED]

    def acquire(self) -> bool:
        """Take the lock; False when somebody else has it."""
        return self._locks.acquire(_LOCK)

    def release(self) -> None:
        """Give the lock back."""
        self._locks.release(_LOCK)

    # with the lock

    def is_current(self, place: Place) -> bool:
        """Tell whether a place still has the key it was given to."""
        return self._words[self._at(place.number)] == place.version

    def find(self, key: bytes) -> Place | None:
        """Return the place of a key; None when it has none."""
        digest = _digest(key)
        start, digests = self._window(digest)
        if digest not in digests:
            return None
        for number, found in enumerate(digests, start):
            if found == digest and self._key(self._at(number)) == key:
                return Place(number, self._words[self._at(number)])
        return None

    def claim(self, key: bytes, limit: int) -> Place | None:
        """Give a key a place, with zeros, unless ``limit`` are in use; None, and counted, when there is none.

        Raises:
            ValueError: the key is longer than ``MAX_KEY_BYTES``.
        """
        if len(key) > MAX_KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes; {MAX_KEY_BYTES} is the limit")
        words, digest = self._words, _digest(key)
        start, digests = self._window(digest)
        if 0 not in digests or words[_USED] >= limit:
            words[_REFUSED] += 1
            return None
        number = start + digests.index(0)
        at = self._at(number)
        self._memory[(at + _CELLS_AT) * 8 : (at + _CELLS_AT + CELLS) * 8] = bytes(CELLS * 8)
        self._memory[at * 8 + _KEY_AT : at * 8 + _KEY_AT + len(key)] = key
        words[at + _LENGTH], words[at + _TOUCHED] = len(key), int(self._clock())
        words[at] += 1
        words[_DIGESTS_AT + number] = digest
        words[_USED] += 1
        return Place(number, words[at])

    def add(self, place: Place, cells: Iterable[int]) -> None:
        """Add numbers to those of a place, in order."""
        words = self._words
        at = self._at(place.number)
        words[at + _TOUCHED] = int(self._clock())
        for cell, number in enumerate(cells, at + _CELLS_AT):
            if number:
                words[cell] += number

    def free(self, place: Place) -> None:
        """Give a place back; nothing happens when it has another key by now."""
        at = self._at(place.number)
        if self._words[at] == place.version:
            self._words[_DIGESTS_AT + place.number] = 0
            self._words[at] += 1
            self._words[_USED] -= 1

    # without

    def read(self, number: int) -> Stored | None:
        """Return what a place holds; None when it is not in use."""
        if not self._words[_DIGESTS_AT + number]:
            return None  # what was never used is not looked at, or it would take memory
        at = self._at(number)
        version = self._words[at]
        if not version & 1:
            return None
        touched, key = self._words[at + _TOUCHED], self._key(at)
        cells = _CELLS.unpack_from(self._memory, (at + _CELLS_AT) * 8)
        if self._words[at] != version:
            return None  # given away meanwhile
        return Stored(Place(number, version), key, cells, touched)

    def first_seen(self, revision: int) -> float:
        """Return how many seconds ago a revision was first asked for, by any worker; 0.0 for the first."""
        at, now = _RING_AT + revision % RING * 2, int(self._clock() * 1e9)
        if self._words[at] == revision:
            return max(0, now - self._words[at + 1]) / 1e9
        if self._words[at] < revision:
            self._words[at + 1] = now
            self._words[at] = revision
        return 0.0

    def _at(self, number: int) -> int:
        return self._places_at + number * _PLACE_WORDS

    def _key(self, at: int) -> bytes:
        start = at * 8 + _KEY_AT
        return bytes(self._memory[start : start + self._words[at + _LENGTH]])

    def _window(self, digest: int) -> tuple[int, list[int]]:
        """Return the first place in which a key may be, and the digests in all of them."""
        size = min(WINDOW, self.places)
        start = digest % (self.places - size + 1)
        return start, self._words[_DIGESTS_AT + start : _DIGESTS_AT + start + size].tolist()


def _digest(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little", signed=True) | 1
