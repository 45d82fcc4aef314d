"""Run a scenario: ``python -m benchmarks.reload reload --rounds 1000 --json benchmarks/results/NAME.json``.

With ``--json`` a run ends after ``--minutes`` at the latest, and is continued by the same command until all rounds are
in the file. The exit code is 0 when all are done and nobody complains, 1 when there are complaints, 3 when rounds are
left.
"""

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.reload import pieces
from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import ScenarioError
from benchmarks.reload.scenarios import crash, leak, listeners, reload, resize, upgrade, writes

SCENARIOS: dict[str, tuple[Callable[..., Outcome], int]] = {  # what it does, and how often by default
    "reload": (reload.run, 1000),
    "resize": (resize.run, 200),
    "listeners": (listeners.run, 200),
    "leak": (leak.run, 500),
    "crash": (crash.run, 120),
    "writes": (writes.run, 10_000),
    "upgrade": (upgrade.run, 50),
}
ROUNDS_LEFT = 3


def main(arguments: list[str]) -> int:
    """Run, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reload", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--rounds", "--reloads", type=int, help="reloads, kills or writes in all")
    parser.add_argument("--minutes", type=float, default=8.0, help="length of a piece (%(default)s)")
    parser.add_argument("--json", type=Path, help="the file in which pieces are collected")
    parser.add_argument("--mode", choices=["slot", "all"], help="reload.mode")
    parser.add_argument("--grace", type=float, help="reload.grace, seconds")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--directory", type=Path, help="where the gateway's files are, and stay")
    parser.add_argument("--by-signal", action="store_true", help="resize: by TTOU and TTIN instead of HUP")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run, rounds = SCENARIOS[options.scenario]
    wanted = options.rounds or rounds
    left = wanted - pieces.done(options.json)
    chosen: dict[str, Any] = {"mode": options.mode, "grace": options.grace, "workers": options.workers}
    given = {name: value for name, value in chosen.items() if value is not None}
    if options.by_signal:
        given["by_signal"] = True
    if left <= 0:
        print(f"{wanted} rounds are done")
        return 0
    try:
        with _workplace(options.directory) as directory:
            outcome = run(directory, Limits(left, options.minutes * 60), **given)
    except ScenarioError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    if options.scenario == "crash":
        outcome.complaints += crash.slower(outcome)
    whole = pieces.add(options.json, " ".join(["python -m benchmarks.reload", *arguments]), outcome.report())
    return _present(options.scenario, outcome, whole, wanted)


@contextlib.contextmanager
def _workplace(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        chosen.mkdir(parents=True)
        yield chosen
        return
    with tempfile.TemporaryDirectory(prefix="propylon-reload-") as directory:
        yield Path(directory)


def _present(name: str, outcome: Outcome, whole: dict[str, Any], wanted: int) -> int:
    for client, seen in outcome.summary.clients.items():
        failed = ", ".join(f"{count} {fault}" for fault, count in seen.failed.items()) or "none failed"
        latency = f"p50 {seen.latency.p50} ms, p99 {seen.latency.p99} ms" if seen.latency is not None else ""
        print(f"{client:16}{seen.connections:8} connections{seen.answered:8} answered, {failed}; {latency}")
    for figure, value in outcome.figures.items():
        print(f"{figure}: {value[-1] if figure == 'samples' else round(value, 3) if type(value) is float else value}")
    print(f"{name}: {whole['rounds']} of {wanted} rounds, {whole['answered']} answered, {whole['failed']} failed")
    for complaint in whole["complaints"]:
        print(f"complaint: {complaint}")
    if whole["complaints"]:
        return 1
    return ROUNDS_LEFT if whole["rounds"] < wanted else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
