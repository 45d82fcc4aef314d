"""Exposition: what a scrape gets, in Prometheus' text format, made portion by portion."""

import time
from collections.abc import Callable, Iterator

from worker.observability.families import Family
from worker.observability.metrics import Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PORTION_SECONDS = 0.0004  # what a step may take; a request may have to wait for it
Found = dict[str, dict[tuple[str, ...], tuple[int, ...]]]  # cells by kind and labels


class Exposition:
    """Writes what all workers have counted, then the texts of whole families that ``gauges`` yields."""

    def __init__(
        self,
        metrics: Metrics,
        gauges: Callable[[], Iterator[str]] = lambda: iter(()),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``clock`` (seconds) measures the portions."""
        self._metrics = metrics
        self._gauges = gauges
        self._clock = clock

    def portions(self) -> Iterator[bytes]:
        """Write; each step takes half a millisecond at most, and may have nothing to show for it."""
        found: Found = {}
        yield from self._gather(found)
        texts = self._texts(found)
        portion: list[str] = []
        until = self._clock() + PORTION_SECONDS
        for text in texts:
            portion.append(text)
            if self._clock() >= until:
                yield "".join(portion).encode("utf-8", "replace")
                portion.clear()
                until = self._clock() + PORTION_SECONDS
        yield "".join(portion).encode("utf-8", "replace")

    def text(self) -> str:
        """Write all of it in one step."""
        return b"".join(self.portions()).decode()

    def _gather(self, found: Found) -> Iterator[bytes]:
        metrics, now = self._metrics, time.monotonic()
        until = self._clock() + PORTION_SECONDS
        for known in metrics.read():
            family = metrics.families.get(known.kind) if known is not None else None
            if family is not None and known is not None and not metrics.is_over(family, known, now):
                _add(found.setdefault(known.kind, {}), known.labels, known.stored.cells[: family.size])
            if self._clock() >= until:
                yield b""
                until = self._clock() + PORTION_SECONDS

    def _texts(self, found: Found) -> Iterator[str]:
        families: list[Family] = sorted(self._metrics.families.values(), key=lambda family: family.name)
        for family in families:
            prefix = self._metrics.settings.metric_prefix
            series = found.pop(family.kind, {})
            if series:
                yield family.head(prefix)
            for labels, cells in series.items():
                yield family.lines(prefix, labels, cells)
        yield from self._gauges()


def _add(series: dict[tuple[str, ...], tuple[int, ...]], labels: tuple[str, ...], cells: tuple[int, ...]) -> None:
    """Add up what has the same labels, as routes of the same name have with ``prefer_name``."""
    before = series.get(labels)
    series[labels] = cells if before is None else tuple(map(sum, zip(before, cells, strict=True)))
