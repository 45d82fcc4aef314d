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

    __slots__ = ("_place", "_row", "active", "average", "count", "sampled_at")

    def __init__(self, name: str = "", row: "LoadRow | None" = None) -> None:
        """Begin without any load; with a row of shared loads, other workers are told under a name."""
        self.active = 0  # in this worker
        self.count = 0  # and in the other workers, when ``refresh`` was last called
        self.average = 0.0  # seconds, at ``sampled_at``
        self.sampled_at = -FORGOTTEN_AFTER
        self._row = row
        self._place = row.place(name) if row is not None else 0

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

    def score(self, now: float) -> float:
        """Return the average as it has decayed since the last sample, 0 when that is long ago.

        A node that is not chosen so becomes cheaper, until it is tried again.
        """
        age = now - self.sampled_at
        return self.average * exp(-age / DECAY_TIME) if age < FORGOTTEN_AFTER else 0.0

    def __repr__(self) -> str:
        """Show both."""
        return f"<Load {self.active} of {self.count} under way, {self.average:.6f} s>"
