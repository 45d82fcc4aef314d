"""What a scrape says, taken apart."""

import re
from collections.abc import Mapping

from worker.observability.exposition import Exposition
from worker.plugins.testing import PluginKit

_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|$)')

Sample = tuple[str, dict[str, str], float]


def samples(text: str) -> list[Sample]:
    """Read an exposition, strictly: families are not mixed, and no series comes twice."""
    found: list[Sample] = []
    families: list[str] = []
    seen = set()
    for line in text.splitlines():
        if line.startswith("# "):
            kind, name = line.split(" ")[1:3]
            assert kind in ("HELP", "TYPE"), line
            if kind == "HELP":
                assert name not in families, f"{name} comes twice"
                families.append(name)
            continue
        read = _LINE.fullmatch(line)
        assert read is not None, line
        name, inner, value = read.groups()
        labels = dict(_LABEL.findall(inner or ""))
        assert _LABEL.sub("", inner or "") == "", line
        assert name.startswith(families[-1]), f"{name} among {families[-1]}"
        assert (name, inner) not in seen, f"{line} comes twice"
        seen.add((name, inner))
        found.append((name, labels, float(value)))
    return found


def value(found: list[Sample], name: str, labels: Mapping[str, str] | None = None) -> float:
    """Return the sum of the series that have these labels."""
    wanted = (labels or {}).items()
    return sum(number for metric, own, number in found if metric == name and wanted <= own.items())


def scrape(kit: PluginKit) -> list[Sample]:
    """Return what a scrape of a kit's worker says now."""
    kit.context.metrics.flush()
    return samples(Exposition(kit.context.metrics).text())
