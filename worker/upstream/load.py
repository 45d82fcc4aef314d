"""Load: the requests under way to a node of an upstream, and how quick it is."""

from math import exp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.upstream.shared_loads import LoadRow

DECAY_TIME = 10.0  # seconds in which a sample loses all but 1/e of its influence
FORGOTTEN_AFTER = 60.0  # seconds


class Load:
    """Requests under way, and a moving average of response times.

    It belongs to an upstream and an address, and is handed on when the upstream is changed: what was begun
    with the old configuration still counts.
    """

    __slots__ = ("_place", "_row", "_timed", "active", "average", "count", "sampled_at")

    def __init__(self, name: str = "", row: "LoadRow | None" = None, timed: "LoadRow | None" = None) -> None:
        """Begin without any load.

        Args:
            name: under which other workers are told, and found.
            row: tells and asks them what is under way; None when that is of no interest.
            timed: tells them response times, and where others have come to; None when these are of no interest.
        """
        self.active = 0  # in this worker
        self.count = 0  # and in the other workers, when ``refresh`` was last called
        self.average = 0.0  # seconds, at ``sampled_at``
        self.sampled_at = -FORGOTTEN_AFTER
        self._row = row
        self._timed = timed
        either = row or timed
        self._place = either.place(name) if either is not None else 0

    def begin(self, now: float) -> None:
        """Go on from the response times that other workers have measured, when there is none of our own."""
        if self._timed is not None and self.score(now) == 0.0:
            measured = self._timed.measured(self._place, now - FORGOTTEN_AFTER)
            if measured is not None:
                self.average, self.sampled_at = measured

    def enter(self) -> None:
        """Count a request in."""
        self.active += 1
        self.count += 1
        if self._row is not None:
            self._row.counts[self._place] += 1

    def leave(self) -> None:
        """Count a request out."""
        self.active -= 1
        self.count -= 1
        if self._row is not None:
            self._row.counts[self._place] -= 1

    def refresh(self) -> None:
        """Look what the other workers have under way."""
        if self._row is not None:
            self.count = self.active + self._row.others(self._place)

    def sample(self, seconds: float, now: float) -> None:
        """Add a response time to the average."""
        age = now - self.sampled_at
        kept = exp(-age / DECAY_TIME) if age < FORGOTTEN_AFTER else 0.0
        self.average = self.average * kept + seconds * (1.0 - kept)
        self.sampled_at = now
        if self._timed is not None:
            self._timed.tell(self._place, self.average, now)

    def score(self, now: float) -> float:
        """Return the average as it has decayed since the last sample, 0 when that is long ago.

        A node that is not chosen so becomes cheaper, until it is tried again.
        """
        age = now - self.sampled_at
        return self.average * exp(-age / DECAY_TIME) if age < FORGOTTEN_AFTER else 0.0

    def __repr__(self) -> str:
        """Show both."""
        return f"<Load {self.active} of {self.count} under way, {self.average:.6f} s>"
