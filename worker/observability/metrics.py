"""Metrics: what a worker counts, on its way into the table that all workers share (docs/decisions/0009-metrics.md).

Who counts asks once for the cells of a set of labels, and adds to them; once a second they are added to the table.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import msgspec

from config_sync.cache import Change
from config_sync.settings_metrics import PrometheusSettings
from worker.observability.existence import NOWHERE, Existence, Origin
from worker.observability.families import Family, Gauge, Hidden
from worker.observability.http_families import http_families
from worker.shared_state.series import MAX_KEY_BYTES, Place, SharedSeries, Stored

log = logging.getLogger("propylon.metrics")

FLUSH = 1.0  # seconds
STEP = 0.0003  # seconds that one step of this work takes, about
LAST_TRIES = 50  # to get the lock, a millisecond apart, when a worker ends
PRUNE = 10.0  # seconds between two looks for places that are to be given back, after a change …
PRUNE_IDLE = 60.0  # … and without one
FOREIGN_TIME = 300  # seconds after which a series that nobody can read any more loses its place

F = TypeVar("F", bound=Family)
T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[str, Origin, tuple[str, ...]]).decode


class Series:
    """Numbers that have not been added to the table yet, and where they belong."""

    __slots__ = ("cells", "key", "origin", "other", "place")

    def __init__(self, key: bytes, size: int, origin: Origin, other: bytes) -> None:
        self.key = key
        self.cells = [0] * size
        self.origin = origin
        self.other = other  # the key under which they count when there is no room
        self.place: Place | None = None


class Known(msgspec.Struct, frozen=True):
    """A series of the table, read."""

    kind: str
    origin: Origin
    labels: tuple[str, ...]
    stored: Stored


class Metrics:
    """The counts of one worker."""

    def __init__(self, settings: PrometheusSettings, existence: Existence, shared: SharedSeries | None = None) -> None:
        """Count into a table, or one of one's own."""
        self.settings = settings
        self.existence = existence
        self.families: dict[str, Family] = {}  # by kind
        self.caches: list[dict[Any, Any]] = []  # of who remembers cells: emptied when they may be of the past
        self.before_flush: list[Callable[[], None]] = []
        self.gauges: Callable[[], Iterator[str]] = lambda: iter(())  # texts of families that are not counted but read
        self.totals = {name: Hidden(f"hidden_{name}") for name in ("requests", "accepted")}  # shown with other gauges
        self.http = http_families(settings)
        # All are known from the beginning: this worker may be asked for what others have counted.
        labels = "name", "route_id", "server_addr"
        self.batch_entries = Gauge("batch_process_entries", "Entries that wait to be sent", labels)
        for family in (*self.totals.values(), *self.http, self.batch_entries):
            self.add_family(family)
        self._shared = shared
        self._series: dict[bytes, Series] = {}
        self._has_changed = False
        self._prune_at = 0.0
        self._work: Iterator[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.Handle | None = None

    @property
    def table(self) -> SharedSeries:
        """The table."""
        if self._shared is None:
            self._shared = SharedSeries()
        return self._shared

    def add_family(self, family: F) -> F:
        """Make a family known; returns the one there is, when there is one with the same layout."""
        family.expires = self.settings.of(family.name).expire
        return cast("F", self.families.setdefault(family.kind, family))

    def total(self, name: str) -> int:
        """Return one of the totals, over all workers there have been."""
        key = _encode((self.totals[name].kind, NOWHERE, ()))
        place = self.table.find(key)
        stored = self.table.read(place.number) if place is not None else None
        return stored.cells[0] if stored is not None else 0

    def cells(self, family: Family, labels: Sequence[str] = (), origin: Origin = NOWHERE) -> list[int]:
        """Return where to count for values of the labels; good until the caches are emptied."""
        key = _encode((family.kind, origin, labels))
        series = self._series.get(key)
        if series is None:
            other = _encode((family.kind, NOWHERE, family.others(labels)))
            if len(self._series) >= self.settings.max_series or len(key) > MAX_KEY_BYTES:
                key, origin = other, NOWHERE
                series = self._series.get(key)
            if series is None:
                series = self._series[key] = Series(key, family.size, origin, other)
        return series.cells

    def changed(self, _: object = None) -> None:
        """Note that the configuration has changed: some series may belong to what is not there any more."""
        self._has_changed = True

    def stage(self) -> "_Staging":
        """Begin to hear of a snapshot, of which only that there is one matters."""
        return _Staging(self)

    # the way into the table

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Flush from now on."""
        self._loop = loop
        self._timer = loop.call_later(FLUSH, self._tick)

    def close(self) -> None:
        """Flush what is left, and stop."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None
        for _ in range(LAST_TRIES):
            self.flush()
            if not any(any(series.cells) for series in self._series.values()):
                break
            time.sleep(0.001)

    def flush(self) -> None:
        """Add everything to the table now, in one step."""
        if self._work is not None:
            for _ in self._work:
                pass
            self._work = None
        for _ in self._flushing(time.monotonic()):
            pass

    def _tick(self) -> None:
        self._work = self._flushing(time.monotonic())
        self._go_on()

    def _go_on(self) -> None:
        loop = self._loop
        if loop is None or self._work is None:
            return
        try:
            next(self._work)
        except StopIteration:
            self._work = None
            self._timer = loop.call_later(FLUSH, self._tick)
        except Exception:
            log.exception("metrics cannot be added up")
            self._work = None
            self._timer = loop.call_later(FLUSH, self._tick)
        else:
            self._timer = loop.call_soon(self._go_on)

    def _flushing(self, now: float) -> Iterator[None]:
        for call in self.before_flush:
            call()
        if not self._series and not self._has_changed and self._shared is None:
            return
        if self._has_changed:
            self._has_changed = False
            self._prune_at = min(self._prune_at, now + PRUNE) if self._prune_at else now + PRUNE
            yield from self._forgetting()
        table, waiting = self.table, deque(self._series.values())
        while waiting:
            if not table.acquire():
                return  # what is left comes with the next flush
            try:
                self._add_some(table, waiting)
            finally:
                table.release()
            yield
        if not self._prune_at:
            self._prune_at = now + PRUNE_IDLE
        elif now >= self._prune_at:
            self._prune_at = now + PRUNE_IDLE
            yield from self._pruning(now)

    def _add_some(self, table: SharedSeries, waiting: deque[Series]) -> None:
        until = time.perf_counter() + STEP
        while waiting and time.perf_counter() < until:
            series = waiting.popleft()
            if any(series.cells):
                self._add(table, series)

    def _add(self, table: SharedSeries, series: Series) -> None:
        place = series.place
        if place is None or not table.is_current(place):
            place = series.place = self._place(table, series)
        if place is None:
            place = table.find(series.other) or table.claim(series.other, table.places)
        if place is not None:
            table.add(place, series.cells)
        series.cells[:] = [0] * len(series.cells)

    def _place(self, table: SharedSeries, series: Series) -> Place | None:
        found = table.find(series.key)
        if found is None and self.existence.holds(series.origin):
            found = table.claim(series.key, self.settings.max_series)
        return found

    def _forgetting(self) -> Iterator[None]:
        """Forget the series that belong to nothing that is there."""
        for cache in self.caches:
            cache.clear()
        for key in in_steps(list(self._series)):
            if key is None:
                yield
            elif not self.existence.holds(self._series[key].origin):
                del self._series[key]

    def _pruning(self, now: float) -> Iterator[None]:
        """Give back the places of series that nobody is to see any more."""
        table = self.table
        for number in in_steps(range(table.places)):
            if number is None:
                yield
                continue
            stored = table.read(number)
            if stored is not None and self._is_gone(stored, now):
                if not table.acquire():
                    return
                table.free(stored.place)
                table.release()

    def _is_gone(self, stored: Stored, now: float) -> bool:
        known = read_series(stored)
        if known is None:
            return True
        family = self.families.get(known.kind)
        if family is None:  # perhaps of a worker with other settings, or newer code
            return now - stored.touched > FOREIGN_TIME
        return self.is_over(family, known, now)

    def is_over(self, family: Family, known: Known, now: float) -> bool:
        """Tell whether a series is to be shown no more."""
        has_expired = 0 < family.expires < now - known.stored.touched
        return has_expired or not self.existence.holds(known.origin)

    def read(self) -> Iterator[Known | None]:
        """Read the table; None at places that are not in use."""
        table = self.table
        for number in range(table.places):
            stored = table.read(number)
            yield read_series(stored) if stored is not None else None


class _Staging:
    """A snapshot on its way."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def add(self, _: Sequence[Change]) -> None:
        pass

    def finish(self) -> Iterator[None]:
        return iter(())

    def commit(self) -> None:
        self._metrics.changed()

    def clean(self) -> Iterator[None]:
        return iter(())

    def drop(self) -> None:
        pass


def read_series(stored: Stored) -> Known | None:
    """Make out what a place counts; None when it cannot be read."""
    try:
        return Known(*_decode(stored.key), stored)
    except msgspec.DecodeError:
        return None


def in_steps(items: Iterable[T]) -> Iterator[T | None]:
    """Walk items, with None between them whenever it is time for a pause."""
    until = time.perf_counter() + STEP
    for item in items:
        yield item
        if time.perf_counter() >= until:
            yield None
            until = time.perf_counter() + STEP
