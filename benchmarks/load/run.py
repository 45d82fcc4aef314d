"""The rounds: every side answers every scenario in turn, so a slow minute of the machine hits all of them."""

import contextlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load.measure import CpuCost, Stopwatch, WrkResult, cost_per_request, parse_wrk
from benchmarks.load.scenarios import Scenario, Setup
from benchmarks.load.sides import SIDES, Side, SideError, Surroundings, get, pinned, running, tool


@dataclass(frozen=True, slots=True)
class Sample:
    """What one side did in one round of one scenario."""

    scenario: str
    side: str
    round: int
    load: WrkResult
    cpu: CpuCost


def run_group(
    scenarios: list[Scenario],
    side_names: list[str],
    around: Surroundings,
    rounds: int,
    seconds: int,
    progress: Callable[[str], None],
) -> list[Sample]:
    """Measure scenarios whose sides run at the same time; ``seconds`` is the length of one run of wrk."""
    samples = []
    with contextlib.ExitStack() as stack:
        sides: dict[tuple[Setup, str], Side] = {}
        for setup in dict.fromkeys(scenario.setup for scenario in scenarios):
            for name in _able(side_names, setup):
                sides[setup, name] = stack.enter_context(running(SIDES[name](setup, around)))
        for scenario in scenarios:
            for name in _able(side_names, scenario.setup):
                _check(scenario, sides[scenario.setup, name], around)
                _drive(scenario, sides[scenario.setup, name], around, 1)
        for number in range(rounds):
            for scenario in scenarios:
                for name in _rotated(_able(side_names, scenario.setup), number):
                    load, cpu = _drive(scenario, sides[scenario.setup, name], around, seconds)
                    samples.append(Sample(scenario.name, name, number, load, cpu))
                    progress(
                        f"round {number + 1}/{rounds}  {scenario.name:15} {name:9}"
                        f"{load.requests_per_second:9.0f}/s {cpu.total:9.1f} µs"
                    )
    return samples


def _able(names: list[str], setup: Setup) -> list[str]:
    return [name for name in names if SIDES[name].can(setup)]


def _rotated(names: list[str], by: int) -> list[str]:
    at = by % len(names) if names else 0
    return names[at:] + names[:at]


def _check(scenario: Scenario, side: Side, around: Surroundings) -> None:
    """Make sure that the side relays what the origin says, so that nobody is quick at saying something else."""
    if get(side.port, scenario.path, scenario.setup.headers) != get(around.origin_port, scenario.path):
        raise SideError(f"{side.name} does not relay the origin's answer to {scenario.path}")


def _drive(scenario: Scenario, side: Side, around: Surroundings, seconds: int) -> tuple[WrkResult, CpuCost]:
    """Run wrk against one side for some seconds."""
    command = wrk_command(scenario, side.port, seconds, around.directory)
    core = around.cores.load if scenario.setup.workers == 1 else None
    stopwatch = Stopwatch(side.pids)
    finished = subprocess.run(
        [*pinned(core), *command], capture_output=True, text=True, check=False, timeout=seconds + 30
    )
    used, passed = stopwatch.stop()
    load = parse_wrk(finished.stdout or finished.stderr)
    return load, cost_per_request(used, load.requests, passed)


def wrk_command(scenario: Scenario, port: int, seconds: int, directory: Path) -> list[str]:
    """Return the command of one run, and write its script if it has one."""
    command = [
        tool("wrk"),
        "-t1",
        f"-c{scenario.connections}",
        f"-d{seconds}s",
        "--latency",
        "--timeout",
        "10s",
    ]
    for header in scenario.headers:
        command += ["-H", header]
    if scenario.script:
        script = directory / f"{scenario.name}.lua"
        script.write_text(scenario.script)
        command += ["-s", str(script)]
    return [*command, f"http://127.0.0.1:{port}{scenario.path}"]
