"""The results as a table, as JSON and as a picture. Ratios are medians of the ratios of single rounds."""

import datetime
import json
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load.run import Sample
from benchmarks.load.scenarios import SCENARIOS

BASELINE = "nginx"


@dataclass(frozen=True, slots=True)
class Row:
    """One side in one scenario: medians over the rounds, and the medians of the ratios to nginx."""

    scenario: str
    side: str
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    user_us: float
    system_us: float
    busy: float
    requests_ratio: float | None
    cpu_ratio: float | None
    errors: int


def summarise(samples: list[Sample]) -> list[Row]:
    """Reduce the samples to one row for each scenario and side, in the order of first appearance."""
    rows = []
    for scenario, side in dict.fromkeys((sample.scenario, sample.side) for sample in samples):
        own = [sample for sample in samples if (sample.scenario, sample.side) == (scenario, side)]
        base = {s.round: s for s in samples if (s.scenario, s.side) == (scenario, BASELINE)}
        pairs = [(sample, base[sample.round]) for sample in own if sample.round in base]
        rows.append(
            Row(
                scenario,
                side,
                requests_per_second=median(sample.load.requests_per_second for sample in own),
                p50_ms=median(sample.load.p50 for sample in own) * 1000,
                p99_ms=median(sample.load.p99 for sample in own) * 1000,
                cpu_us=median(sample.cpu.total for sample in own),
                user_us=median(sample.cpu.user for sample in own),
                system_us=median(sample.cpu.system for sample in own),
                busy=median(sample.cpu.busy for sample in own),
                requests_ratio=_median_ratio(pairs, lambda sample: sample.load.requests_per_second),
                cpu_ratio=_median_ratio(pairs, lambda sample: sample.cpu.total),
                errors=sum(sample.load.status_errors + sample.load.socket_errors for sample in own),
            )
        )
    return rows


def _median_ratio(pairs: list[tuple[Sample, Sample]], value: Callable[[Sample], float]) -> float | None:
    return median(value(own) / value(base) for own, base in pairs) if pairs else None


def cpu_difference(samples: list[Sample], side: str, few: str, many: str) -> float | None:
    """Return how many microseconds of CPU a request of scenario ``many`` costs more than one of ``few``.

    The median of the differences of single rounds; None if one of the two was not measured.
    """
    cost = {(s.scenario, s.round): s.cpu.total for s in samples if s.side == side}
    rounds = [number for name, number in cost if name == many and (few, number) in cost]
    return median(cost[many, number] - cost[few, number] for number in rounds) if rounds else None


def table(rows: Iterable[Row]) -> str:
    """Return the rows as text, a block for each scenario."""
    titles = {scenario.name: scenario.title for scenario in SCENARIOS}
    head = (
        f"  {'':10}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>9}"
        f"{'user':>8}{'system':>8}{'busy':>7}{'req/s ratio':>13}{'CPU ratio':>11}{'errors':>8}"
    )
    lines: list[str] = []
    last = ""
    for row in rows:
        if row.scenario != last:
            last = row.scenario
            lines += ["", f"{row.scenario}: {titles.get(row.scenario, '')}", head]
        lines.append(
            f"  {row.side:10}{row.requests_per_second:11.0f}{row.p50_ms:9.2f}{row.p99_ms:9.2f}"
            f"{row.cpu_us:9.1f}{row.user_us:8.1f}{row.system_us:8.1f}{row.busy:7.0%}"
            f"{_ratio(row.requests_ratio):>13}{_ratio(row.cpu_ratio):>11}{row.errors:8}"
        )
    return "\n".join(lines[1:])


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def machine() -> dict[str, Any]:
    """Describe the machine."""
    model = platform.processor() or "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_json(path: Path, header: dict[str, Any], samples: list[Sample], parts: dict[str, Any]) -> None:
    """Write everything that was measured: the rows for reading, the samples (one a line) for checking them."""
    document = {
        **header,
        "rows": [asdict(row) for row in summarise(samples)],
        **parts,
        "samples": [asdict(sample) for sample in samples],
    }
    members = (f"{json.dumps(name)}: {_lines(_rounded(value))}" for name, value in document.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(members) + "\n}\n")


def _rounded(value: Any) -> Any:
    """Leave six significant digits of every number, and all else as it is."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(member) for name, member in value.items()}
    return [_rounded(member) for member in value] if isinstance(value, list) else value


def _lines(value: Any) -> str:
    """Return JSON with a line for each member of a list of objects, so that two results can be compared."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"  {json.dumps(member)}" for member in value) + "\n]"
    return json.dumps(value)


def write_picture(path: Path, rows: list[Row], caption: str) -> None:
    """Draw requests per second and CPU per request of every side in every scenario, relative to nginx."""
    # Imported here: it takes half a second and not everybody who measures has it.
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    scenarios = list(dict.fromkeys(row.scenario for row in rows))
    sides = list(dict.fromkeys(row.side for row in rows))
    panels = (
        ("requests per second, relative to nginx (more is better)", "requests_ratio"),
        ("CPU per request, relative to nginx (less is better)", "cpu_ratio"),
    )
    figure, axes = plt.subplots(1, 2, figsize=(13, 1.2 + 0.55 * len(scenarios)), sharey=True)
    height = 0.8 / len(sides)
    for panel, (title, field) in zip(axes, panels, strict=True):
        for position, side in enumerate(sides):
            values = {row.scenario: getattr(row, field) or 0.0 for row in rows if row.side == side}
            places = [at + (position - (len(sides) - 1) / 2) * height for at in range(len(scenarios))]
            bars = panel.barh(places, [values.get(name, 0.0) for name in scenarios], height * 0.9, label=side)
            panel.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
        panel.set_title(title, fontsize=10)
        panel.set_yticks(range(len(scenarios)), scenarios)
        panel.axvline(1.0, color="grey", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper right", ncols=len(sides), fontsize=8)
    figure.text(0.01, 0.01, caption, fontsize=7, color="grey")
    figure.tight_layout(rect=(0, 0.03, 1, 0.95))
    figure.savefig(path)
    plt.close(figure)
