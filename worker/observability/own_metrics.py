"""OwnMetrics: what each worker counts of itself: requests, how late its loop is, how late it learns of changes."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from config_sync.cache import ConfigStore, Event
from worker.observability.families import Family, Histogram
from worker.observability.metrics import Metrics

if TYPE_CHECKING:
    from worker.context import WorkerContext

PROBE = 0.1  # seconds between two looks at how late the loop is
_MICROSECONDS = (
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
)


class OwnFamily(Family):
    """A counter that is not APISIX's, and has another prefix."""

    def head(self, prefix: str) -> str:
        """Return the lines in front of the series."""
        return super().head("")

    def lines(self, prefix: str, labels: Sequence[str], cells: Sequence[int]) -> str:
        """Return the lines of a series."""
        return super().lines("", labels, cells)


class OwnHistogram(Histogram):
    """Likewise a histogram, of microseconds that are shown as seconds."""

    def __init__(self, name: str, help_: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, help_, _MICROSECONDS, labels, unit=1e-6)

    def head(self, prefix: str) -> str:
        """Return the lines in front of the series."""
        return super().head("")

    def lines(self, prefix: str, labels: Sequence[str], cells: Sequence[int]) -> str:
        """Return the lines of a series."""
        return super().lines("", labels, cells)


class OwnMetrics:
    """Counts in one worker; ``propagation`` is measured from the first worker that has applied a revision."""

    def __init__(self, context: "WorkerContext", store: ConfigStore, slot: int) -> None:
        self._context = context
        self._store = store
        self._metrics: Metrics = context.metrics
        self._slot = (str(slot),)
        self._lag = OwnHistogram("propylon_loop_lag_seconds", "How late the event loop is", ("worker",))
        self._propagation = OwnHistogram(
            "propylon_propagation_seconds", "From the first worker that has applied a change to this one", ("worker",)
        )
        self._failures = OwnFamily("propylon_plugin_failures_total", "Exceptions of plugins", ("plugin",))
        self._blocked = OwnFamily("propylon_plugin_blocked_total", "Calls of plugins that kept the loop", ("plugin",))
        self._evicted = OwnFamily("propylon_shared_evicted_total", "Given up early, for want of room", ("kind",))
        self._unlocked = OwnFamily("propylon_shared_unlocked_total", "Begun without their lock", ("kind",))
        for family in (self._lag, self._propagation, self._failures, self._blocked, self._evicted, self._unlocked):
            self._metrics.add_family(family)
        self._told: dict[tuple[Family, str], int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Count from now on."""
        self._loop = loop
        self._metrics.before_flush.append(self._collect)
        self._store.observe(self)
        self._probe(time.monotonic())

    def stop(self) -> None:
        """Count no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._loop = None
        self._store.unobserve(self)

    # how late the loop is

    def _probe(self, due: float) -> None:
        now = time.monotonic()
        self._lag.observe(self._metrics.cells(self._lag, self._slot), max(0, int((now - due) * 1e6)))
        if self._loop is not None:
            self._timer = self._loop.call_later(PROBE, self._probe, now + PROBE)

    # how late changes are

    def applied(self, events: Sequence[Event], revision: int) -> None:
        """Note when a change has been applied."""
        if events:
            late = self._metrics.table.first_seen(revision)
            self._propagation.observe(self._metrics.cells(self._propagation, self._slot), int(late * 1e6))

    def replaced(self, revision: int) -> None:
        """A snapshot is no change that others had at a moment of their own."""

    # what others count

    def _collect(self) -> None:
        plugins, context, metrics = self._context.plugins, self._context, self._metrics
        self._told_of(metrics.totals["requests"], "", context.requests)
        self._told_of(metrics.totals["accepted"], "", context.accepted)
        self._told_all(self._failures, plugins.failures)
        self._told_all(self._blocked, plugins.blocked)
        for kind, shared in (("counter", plugins.services.counters), ("note", plugins.services.notes)):
            self._told_of(self._evicted, kind, shared.places.evicted)
            self._told_of(self._unlocked, kind, shared.places.unlocked)

    def _told_all(self, family: Family, counts: Mapping[str, int]) -> None:
        for name, count in counts.items():
            self._told_of(family, name, count)

    def _told_of(self, family: Family, name: str, count: int) -> None:
        """Count what has come since the last time."""
        before = self._told.get((family, name), 0)
        if count > before:
            self._told[family, name] = count
            self._metrics.cells(family, (name,) if name else ())[0] += count - before
