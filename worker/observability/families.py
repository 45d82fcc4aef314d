"""Families of metrics: what a name counts, and how Prometheus is told of it (its text format, version 0.0.4)."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from zlib import crc32

import msgspec

from config_sync.settings_metrics import ExtraLabel
from worker.shared_state.series import CELLS

_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
OTHER = "other"  # the value of labels for whose values there is no room


class Family:
    """A name with its labels; a set of values of these has ``size`` cells. ``kind`` tells layouts apart."""

    type = "counter"

    def __init__(
        self,
        name: str,
        help_: str,
        labels: Sequence[str],
        size: int = 1,
        extra: Sequence[ExtraLabel] = (),
        varies: str = "",
    ) -> None:
        """Describe a family; ``varies`` is a label that the cells themselves have the values of, in ``variants``."""
        self.name = name
        self.help = help_
        self.extra = tuple(extra)
        self.labels = (*labels, *(each.name for each in extra))
        self.size = size
        self.varies = varies
        self.expires = 0  # seconds without an addition after which a series is dropped; 0: never
        self.kind = self._kind()

    def _kind(self, *more: object) -> str:
        layout = msgspec.json.encode([self.labels, self.size, self.varies, *more])
        return f"{self.name}:{crc32(layout):x}"

    def head(self, prefix: str) -> str:
        """Return the lines in front of the series."""
        return f"# HELP {prefix}{self.name} {self.help}\n# TYPE {prefix}{self.name} {self.type}\n"

    def lines(self, prefix: str, labels: Sequence[str], cells: Sequence[int]) -> str:
        """Return the lines of a series."""
        return f"{prefix}{self.name}{braced(self.labels, labels)} {cells[0]}\n"

    def others(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the labels under which values count that there is no room for."""
        return tuple(
            OTHER if value and name in CLIENT_LABELS else value for name, value in zip(self.labels, labels, strict=True)
        )


CLIENT_LABELS = frozenset(("route", "matched_uri", "matched_host", "service", "consumer", "node"))


class Gauge(Family):
    """A value that goes up and down."""

    type = "gauge"


class Hidden(Family):
    """A counter that is shown by somebody else, in another form."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "", ())

    def head(self, prefix: str) -> str:
        """Return nothing."""
        return ""

    def lines(self, prefix: str, labels: Sequence[str], cells: Sequence[int]) -> str:
        """Return nothing."""
        return ""


class Varied(Family):
    """A counter for each value of one label."""

    def __init__(
        self,
        name: str,
        help_: str,
        varies: str,
        variants: Sequence[str],
        labels: Sequence[str],
        extra: Sequence[ExtraLabel],
    ) -> None:
        self.variants = tuple(variants)
        super().__init__(name, help_, labels, len(variants), extra, varies)

    def lines(self, prefix: str, labels: Sequence[str], cells: Sequence[int]) -> str:
        """Return a line for each value of the label."""
        rest = pairs(self.labels, labels)
        return "".join(
            f"{prefix}{self.name}{{{','.join([f'{self.varies}={quoted(variant)}', *rest])}}} {cell}\n"
            for variant, cell in zip(self.variants, cells, strict=True)
        )


class Histogram(Family):
    """Numbers by size, one histogram for each of ``variants``; cells: their buckets, then their sums."""

    type = "histogram"

    def __init__(
        self,
        name: str,
        help_: str,
        bounds: Sequence[int],
        labels: Sequence[str],
        extra: Sequence[ExtraLabel] = (),
        varies: str = "",
        variants: Sequence[str] = ("",),
        unit: float = 1,
    ) -> None:
        """``bounds`` are whole numbers; they and sums are multiplied by ``unit`` when they are shown."""
        self.bounds = tuple(bounds)
        self.variants = tuple(variants)
        self._unit = unit
        self._names = [shown(bound * unit) for bound in bounds] + ["+Inf"]
        self.buckets = len(bounds) + 1
        super().__init__(name, help_, labels, len(self.variants) * (self.buckets + 1), extra, varies)
        self.kind = self._kind(self.bounds, self.variants)

    def bucket(self, value: int) -> int:
        """Return the cell, of the first variant, that counts a value."""
        return bisect_left(self.bounds, value)

    def observe(self, cells: list[int], value: int) -> None:
        """Count a value, in the first variant."""
        cells[bisect_left(self.bounds, value)] += 1
        cells[-len(self.variants)] += value

    def lines(self, prefix: str, labels: Sequence[str], cells: Sequence[int]) -> str:
        """Return the lines of each histogram that has counted something."""
        rest = pairs(self.labels, labels)
        name, sums_at = f"{prefix}{self.name}", len(self.variants) * self.buckets
        found = []
        for at, variant in enumerate(self.variants):
            counts = list(accumulate(cells[at * self.buckets : (at + 1) * self.buckets]))
            if not counts[-1]:
                continue
            text = ",".join([f"{self.varies}={quoted(variant)}", *rest] if self.varies else rest)
            comma, braces = ("," if text else ""), (f"{{{text}}}" if text else "")
            found += [
                f'{name}_bucket{{{text}{comma}le="{bound}"}} {count}\n'
                for bound, count in zip(self._names, counts, strict=True)
            ]
            found.append(f"{name}_sum{braces} {shown(cells[sums_at + at] * self._unit)}\n")
            found.append(f"{name}_count{braces} {counts[-1]}\n")
        return "".join(found)


def most_bounds(variants: int) -> int:
    """Return how many bounds there is room for."""
    return CELLS // variants - 2


def shown(value: float) -> str:
    """Write a number."""
    return str(int(value)) if value == int(value) else repr(round(value, 9))


def quoted(value: str) -> str:
    """Write the value of a label."""
    return f'"{value.translate(_ESCAPED)}"'


def pairs(names: Iterable[str], values: Iterable[str]) -> list[str]:
    """Write labels with their values."""
    return [f"{name}={quoted(value)}" for name, value in zip(names, values, strict=True)]


def braced(names: Iterable[str], values: Iterable[str]) -> str:
    """Write labels as they follow a name; nothing when there are none."""
    inner = ",".join(pairs(names, values))
    return f"{{{inner}}}" if inner else ""
