"""Run the load benchmark: ``python -m benchmarks.load --help``."""

import argparse
import datetime
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.load import memory, propagation, report
from benchmarks.load.run import Sample, run_group
from benchmarks.load.scenarios import SCENARIOS, Scenario, in_groups, select
from benchmarks.load.sides import SIDES, Cores, SideError, surroundings, tool
from conf.demo.embedded_etcd import EtcdError

RESULTS = Path(__file__).resolve().parents[1] / "results"
OTHER_PARTS = ("propagation", "propagation_under_load", "memory")
PARTS = [*(scenario.name for scenario in SCENARIOS), *OTHER_PARTS]


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line and refuse unknown names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--only", type=_words, default=PARTS, help=f"some of: {','.join(PARTS)}")
    parser.add_argument("--sides", type=_words, default=list(SIDES), help=f"some of: {','.join(SIDES)}")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each scenario (default 5)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds of one run of wrk (default 3)")
    parser.add_argument("--changes", type=int, default=200, help="changes whose propagation is timed (default 200)")
    parser.add_argument("--quick", action="store_true", help="two rounds of one second, 20 changes: is it working?")
    parser.add_argument("--name", default=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H%M}")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of NAME.json and NAME.svg")
    options = parser.parse_args(arguments)
    for given, known in ((options.only, PARTS), (options.sides, list(SIDES))):
        if unknown := [word for word in given if word not in known]:
            parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    if options.quick:
        options.rounds, options.seconds, options.changes = 2, 1, 20
    return options


def main(arguments: list[str]) -> int:
    """Measure, print and write; 0 if no request failed."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scenarios = select([name for name in options.only if name not in OTHER_PARTS])
    try:
        for name in _needed_tools(options, scenarios):
            tool(name)
        samples, parts = _measure(options, scenarios)
    except (SideError, EtcdError) as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return 1
    return _present(options, samples, parts)


def _needed_tools(options: argparse.Namespace, scenarios: list[Scenario]) -> list[str]:
    needed = ["nginx", "taskset", *(side for side in options.sides if side != "propylon")]
    return [*needed, "wrk"] if scenarios or "propagation_under_load" in options.only else needed


def _measure(options: argparse.Namespace, scenarios: list[Scenario]) -> tuple[list[Sample], dict[str, Any]]:
    samples: list[Sample] = []
    parts: dict[str, Any] = {}
    cores = Cores.choose()
    with_etcd = "propylon" in options.sides
    with (
        tempfile.TemporaryDirectory(prefix="propylon-benchmark-") as directory,
        surroundings(Path(directory), cores, with_etcd) as around,
    ):
        for group in in_groups(scenarios):
            samples += run_group(group, options.sides, around, options.rounds, options.seconds, _progress)
        if "propagation" in options.only and with_etcd:
            parts["propagation"] = propagation.measure(around, options.changes)
        if "propagation_under_load" in options.only and with_etcd:
            parts["propagation_under_load"] = propagation.measure_under_load(around, options.changes * 5)
        if "memory" in options.only:
            parts["memory"] = memory.measure(around, options.sides)
    return samples, parts


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _present(options: argparse.Namespace, samples: list[Sample], parts: dict[str, Any]) -> int:
    cores = Cores.choose()
    versions = {name: SIDES[name].version() for name in options.sides}
    header = {
        "machine": report.machine(),
        "versions": versions,
        "method": {
            "rounds": options.rounds,
            "seconds": options.seconds,
            "proxy_core": cores.proxy,
            "load_core": cores.load,
        },
    }
    _progress("")
    print(f"{header['machine']}\n" + "\n".join(versions.values()) + "\n")
    rows = report.summarise(samples)
    if rows:
        print(report.table(rows), end="\n\n")
    for side in options.sides:
        extra = report.cpu_difference(samples, side, "routes_10", "routes_10000")
        if extra is not None:
            parts.setdefault("routes_cost_us", {})[side] = extra
            print(f"{side}: with 10,000 routes a request costs {extra:+.2f} µs of CPU against 10 routes")
    if "propagation" in parts:
        print(propagation.describe(parts["propagation"]))
    if "propagation_under_load" in parts:
        print(propagation.describe_under_load(parts["propagation_under_load"]))
    if "memory" in parts:
        print(memory.describe(parts["memory"]))
    path = options.output / f"{options.name}.json"
    report.write_json(path, header, samples, parts)
    print(f"\nwritten: {path}")
    if rows and "nginx" in options.sides:
        caption = f"{header['machine']['cpu']}, {header['machine']['cores']} cores; " + "; ".join(versions.values())
        report.write_picture(path.with_suffix(".svg"), rows, caption)
        print(f"written: {path.with_suffix('.svg')}")
    failed = sum(row.errors for row in rows)
    if failed:
        print(f"benchmark: {failed} requests failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
