"""Which member to talk to next: round robin over those that are not marked, the longest marked when all are."""

from collections.abc import Callable


class Endpoints:
    """The members of a cluster by index, with a mark on those that have failed lately."""

    def __init__(self, count: int, mark_time: float, choose: Callable[[], float]) -> None:
        """Begin with any of them, so that workers spread.

        Args:
            count: how many there are.
            mark_time: how long a failed one is asked last, in seconds.
            choose: gives a random number from 0 to 1.
        """
        self.current = min(count - 1, int(choose() * count))
        self._mark_time = mark_time
        self._marked_until = [0.0] * count

    def succeeded(self) -> None:
        """Take the mark from the current one."""
        self._marked_until[self.current] = 0.0

    def failed(self, now: float) -> None:
        """Mark the current one, and go to the next."""
        self._marked_until[self.current] = now + self._mark_time
        count = len(self._marked_until)
        others = [(self.current + step) % count for step in range(1, count + 1)]
        free = [at for at in others if self._marked_until[at] <= now]
        self.current = free[0] if free else min(others, key=lambda at: self._marked_until[at])
