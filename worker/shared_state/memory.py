"""SharedState: the memory behind shared counters and notes, which the master maps before the first fork."""

import mmap
import os
import time
from collections.abc import Callable

from worker.shared_state.counters import TALLY_WORDS, SharedCounters
from worker.shared_state.locks import Locks
from worker.shared_state.notes import NOTE_WORDS, SharedNotes
from worker.shared_state.places import PLACE_WORDS, WAYS, Places
from worker.shared_state.semaphores import Semaphores

ROWS = 256  # of more workers than these, two share a row, and may lose what they add at the same moment
COUNTERS = 65_536
NOTES = 8_192
_PAGE_WORDS = mmap.PAGESIZE // 8
_HEADER_WORDS = _PAGE_WORDS
_USED = 0


class SharedState:
    """Memory that is a file without a name, so that its bytes can be locked; the master's part."""

    def __init__(
        self,
        counters: int = COUNTERS,
        notes: int = NOTES,
        rows: int = ROWS,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Map it, with room for about so many; pages that nobody has written to cost nothing."""
        buckets, note_buckets = -(-counters // _PAGE_WORDS) * _PAGE_WORDS // WAYS, -(-notes // WAYS)
        self._rows = rows
        self._row_words = buckets * WAYS
        self._rows_at = _HEADER_WORDS
        self._tallies_at = self._rows_at + rows * self._row_words
        counters_at = self._tallies_at + buckets * WAYS * TALLY_WORDS
        note_places_at = counters_at + buckets * WAYS * PLACE_WORDS
        notes_at = note_places_at + note_buckets * WAYS * PLACE_WORDS
        size = (notes_at + note_buckets * WAYS * 2 * NOTE_WORDS) * 8
        fd = os.memfd_create("propylon-shared-state")
        os.ftruncate(fd, size)
        self._clock = clock
        self._map = mmap.mmap(fd, size)
        memory = memoryview(self._map)
        self._words: memoryview[int] = memory.cast("q")
        self._semaphores = Semaphores(self._map)
        self.locks = Locks(fd)
        self.counter_places = Places(self._words, counters_at, buckets, self.locks, 0)
        self.note_places = Places(self._words, note_places_at, note_buckets, self.locks, buckets)
        self.notes = SharedNotes(memory, self._words, self.note_places, notes_at, clock)

    # the master's part

    def open(self, number: int) -> None:
        """Let a row be read, before its worker lives."""
        self._words[_USED] = min(self._rows, max(self._words[_USED], number + 1))

    def clear(self, number: int) -> None:
        """Forget what a worker held that is dead; what it has counted stays."""
        start = (self._rows_at + number % self._rows * self._row_words) * 8
        # Gives the pages back, too (madvise(2)).
        self._map.madvise(mmap.MADV_REMOVE, start, self._row_words * 8)

    # a worker's part

    def counters(self, number: int) -> SharedCounters:
        """Return the counts as the worker changes them that has an entry of the scoreboard."""
        return SharedCounters(
            self._words,
            self._semaphores,
            self.counter_places,
            self._tallies_at,
            self._rows_at,
            _USED,
            number % self._rows,
            self._clock,
        )
