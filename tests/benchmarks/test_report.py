"""How benchmarks.load.report reduces samples."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.load.measure import CpuCost, WrkResult
from benchmarks.load.report import cpu_difference, summarise, table, write_json, write_picture
from benchmarks.load.run import Sample


def sample(scenario: str, side: str, number: int, requests: int, cpu: float) -> Sample:
    load = WrkResult(requests, 1.0, p50=0.001, p99=0.002, status_errors=0, socket_errors=0)
    return Sample(scenario, side, number, load, CpuCost(cpu, cpu / 4, cpu * 3 / 4, busy=0.9))


# The machine is twice as slow in the second round, and something disturbs propylon in the third.
SAMPLES = [
    sample("small_get", "nginx", 0, 30_000, 30.0),
    sample("small_get", "propylon", 0, 24_000, 36.0),
    sample("small_get", "propylon", 1, 12_000, 72.0),
    sample("small_get", "nginx", 1, 15_000, 60.0),
    sample("small_get", "nginx", 2, 30_000, 30.0),
    sample("small_get", "propylon", 2, 6_000, 90.0),
]


def test_ratios_are_taken_within_a_round() -> None:
    nginx, propylon = summarise(SAMPLES)
    assert (nginx.cpu_ratio, nginx.requests_ratio) == (1.0, 1.0)
    assert propylon.cpu_ratio == pytest.approx(1.2)
    assert propylon.requests_ratio == pytest.approx(0.8)
    assert propylon.cpu_us == 72.0


def test_there_is_no_ratio_without_nginx() -> None:
    (row,) = summarise([s for s in SAMPLES if s.side == "propylon"])
    assert row.cpu_ratio is None
    assert "-" in table([row])


def test_errors_of_all_rounds_are_added() -> None:
    first = replace(SAMPLES[0], load=replace(SAMPLES[0].load, status_errors=2, socket_errors=3))
    assert summarise([first, *SAMPLES[1:]])[0].errors == 5


def test_the_difference_between_few_and_many_routes() -> None:
    samples = [
        sample("few", "nginx", 0, 1, 30.0),
        sample("many", "nginx", 0, 1, 30.5),
        sample("few", "nginx", 1, 1, 60.0),
        sample("many", "nginx", 1, 1, 60.5),
        sample("few", "propylon", 0, 1, 40.0),
    ]
    assert cpu_difference(samples, "nginx", "few", "many") == pytest.approx(0.5)
    assert cpu_difference(samples, "propylon", "few", "many") is None


def test_the_files_are_written(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"machine": {}}, SAMPLES, {})
    assert '"cpu_ratio": 1.2' in (tmp_path / "new" / "a.json").read_text()
    pytest.importorskip("matplotlib")
    write_picture(tmp_path / "a.svg", summarise(SAMPLES), "a machine")
    assert "<svg" in (tmp_path / "a.svg").read_text()
