"""Who probes: the holder of a lease in the shared memory.

The holder renews it all the time. When it has not been renewed for ``LAPSE`` seconds, because its holder was killed or
hangs, any worker may take it; a lock, held for that moment only, keeps two from doing so at once. A former holder that
wakes up sees by the term that it is over.
"""

from typing import Protocol

from worker.upstream.health.table import BEAT_NS, HOLDER, TERM, HealthTable

LAPSE = 1.0  # seconds


class Lock(Protocol):
    """What at most one process has at a time."""

    def take(self) -> bool:
        """Take it if nobody has it; never wait."""

    def release(self) -> None:
        """Give it back."""


class Lease:
    """The lease as one worker sees it; times are of the monotonic clock, in nanoseconds."""

    __slots__ = ("_lock", "_me", "_term", "_words")

    def __init__(self, table: HealthTable, worker: int, lock: Lock) -> None:
        """See it for a worker, by the number of its scoreboard entry."""
        self._words = table.words
        self._me = worker + 1
        self._lock = lock
        self._term = 0

    @property
    def is_mine(self) -> bool:
        """Tell whether we hold it, and nobody has taken it from us."""
        return self._term != 0 and self._words[TERM] == self._term and self._words[HOLDER] == self._me

    def keep(self, now_ns: int) -> bool:
        """Renew it, or take it when it has lapsed; returns whether it is ours.

        Raises:
            OSError: the lock cannot be opened.
        """
        if self.is_mine:
            self._words[BEAT_NS] = now_ns
            return True
        self._term = 0
        if not self._has_lapsed(now_ns) or not self._lock.take():
            return False
        try:
            if not self._has_lapsed(now_ns):
                return False
            self._term = self._words[TERM] + 1
            self._words[BEAT_NS], self._words[TERM], self._words[HOLDER] = now_ns, self._term, self._me
            return True
        finally:
            self._lock.release()

    def give_up(self) -> None:
        """Let another take it at once."""
        if self.is_mine:
            self._words[HOLDER] = 0
        self._term = 0

    def _has_lapsed(self, now_ns: int) -> bool:
        return self._words[HOLDER] == 0 or now_ns - self._words[BEAT_NS] > LAPSE * 1e9
