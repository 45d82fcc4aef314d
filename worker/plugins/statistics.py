"""What became of the calls of each plugin: failures, calls that blocked or waited too long, and the time they took.

The log is told of each kind at once, and then of how often it came again, at most every ``QUIET`` seconds.
"""

import logging
from collections.abc import Callable
from time import monotonic

log = logging.getLogger("propylon.plugins")

QUIET = 10.0  # seconds
SAMPLED = 16  # of so many requests of a connection the first is timed


class HookLate(Exception):
    """A hook has waited longer than ``plugins.hook_timeout``."""


class Repeats:
    """How often something has happened since it was last told."""

    __slots__ = ("_told_at", "count")

    def __init__(self) -> None:
        self.count = 0
        self._told_at = -QUIET

    def to_tell(self, now: float) -> int:
        """Count one more; returns how many are to be told now, 0 for none."""
        self.count += 1
        if now - self._told_at < QUIET:
            return 0
        count, self.count, self._told_at = self.count, 0, now
        return count


class PluginRecord:
    """The record of one plugin in one worker."""

    __slots__ = (
        "_blocks",
        "_failures",
        "_in_window",
        "_window_began",
        "blocked",
        "calls",
        "failures",
        "last_failure",
        "late",
        "name",
        "seconds",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.failures = 0  # exceptions
        self.blocked = 0  # calls that kept the loop
        self.late = 0  # calls that waited too long
        self.calls = 0  # that were timed …
        self.seconds = 0.0  # … and how long they took, without what they waited for
        self.last_failure = ""
        self._failures = Repeats()
        self._blocks = Repeats()
        self._window_began = 0.0
        self._in_window = 0

    def has_failed(self, error: BaseException, now: float) -> None:
        """Count an exception, and log it."""
        self.failures += 1
        self.last_failure = f"{type(error).__name__}: {error}"
        count = self._failures.to_tell(now)
        if count:
            log.error("plugin %s has failed%s", self.name, _again(count), exc_info=error)

    def has_blocked(self, seconds: float, now: float) -> None:
        """Count a call that kept the loop, and log it."""
        self.blocked += 1
        count = self._blocks.to_tell(now)
        if count:
            log.warning("plugin %s has blocked the event loop for %.0f ms%s", self.name, seconds * 1000, _again(count))

    def is_spent(self, budget: int, window: float, now: float) -> bool:
        """Note a failure against a budget; tells whether there have been more within ``window`` seconds."""
        if now - self._window_began > window:
            self._window_began, self._in_window = now, 0
        self._in_window += 1
        return self._in_window > budget


class PluginStatistics:
    """The records of all plugins; ``spent`` is called with the name of one that fails too often."""

    def __init__(
        self,
        budget: int = 0,
        window: float = 0.0,
        spent: Callable[[str], None] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """Allow so many failures within so many seconds; with a ``budget`` of 0 any number."""
        self.records: dict[str, PluginRecord] = {}
        self._budget = budget
        self._window = window
        self._spent = spent
        self._clock = clock

    def of(self, name: str) -> PluginRecord:
        """Return the record of a plugin."""
        record = self.records.get(name)
        if record is None:
            record = self.records[name] = PluginRecord(name)
        return record

    def failed(self, name: str, error: BaseException) -> None:
        """Note an exception."""
        record, now = self.of(name), self._clock()
        record.has_failed(error, now)
        if isinstance(error, HookLate):
            record.late += 1
        if self._budget and self._spent is not None and record.is_spent(self._budget, self._window, now):
            self._spent(name)

    def blocked(self, name: str, seconds: float) -> None:
        """Note a call that kept the loop."""
        self.of(name).has_blocked(seconds, self._clock())


def _again(count: int) -> str:
    return f" ({count} times since it was last said)" if count > 1 else ""
