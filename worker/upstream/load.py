"""Load: what a worker knows of the requests under way to a node of an upstream, and of how quick it is."""

from math import exp

DECAY_TIME = 10.0  # seconds in which a sample loses all but 1/e of its influence
FORGOTTEN_AFTER = 60.0  # seconds


class Load:
    """Requests under way, and a moving average of response times.

    It belongs to an upstream and an address, and is handed on when the upstream is changed: what was begun
    with the old configuration still counts.
    """

    __slots__ = ("active", "average", "sampled_at")

    def __init__(self) -> None:
        self.active = 0
        self.average = 0.0  # seconds, at ``sampled_at``
        self.sampled_at = -FORGOTTEN_AFTER

    def total(self) -> int:
        """Return the number of requests under way."""
        return self.active

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
        return f"<Load {self.active} active, {self.average:.6f} s>"
