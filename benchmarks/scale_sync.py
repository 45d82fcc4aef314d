"""Very many routes: how soon does a worker serve them, what do they take, and does a change ever block it?

``python -m benchmarks.scale_sync --help``; the method and the bounds stand in ``benchmarks/README.md``.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop

from benchmarks.load.memory import parse_rollup
from benchmarks.load.report import machine
from benchmarks.sync import probe
from benchmarks.sync.control import WatchedGateway
from benchmarks.sync.groups import PREFIX
from conf.demo.embedded_etcd import EmbeddedEtcd
from config_sync.settings import available_cpus
from tests.fakes.cluster import Caller
from tests.fakes.processes import ROOT
from tests.fakes.wire import Wire

FLAVOURS = ("upstream_id", "inline")
ROUTE_BYTES = 500
SINGLE_CHANGES = 300
PATIENCE = 120.0
_NODES = {"127.0.0.1:1980": 1, "127.0.0.1:1981": 2}

# What the issue demands, by figure.
BOUNDS = {"ready_s": 6.0, "rss_mib": 250.0, "apply_us": 300.0, "blocked_ms": 20.0}


class ScaleError(Exception):
    """The measurement cannot go on."""


def route(number: int, flavour: str, turn: int = 0) -> bytes:
    """Return a route of ``ROUTE_BYTES`` bytes; each turn makes another one."""
    value: dict[str, Any] = {
        "uri": f"/service-{number % 1000}/resource-{number}/*",
        "name": f"route {number}, turn {turn}",
        "methods": ["GET", "POST"],
        "desc": f"for measurements {'.' * 100}",
        "labels": {"team": f"team-{number % 50}", "pad": ""},
    }
    if flavour == "upstream_id":
        value["upstream_id"] = str(number % 100)
    else:
        value["upstream"] = {"type": "roundrobin", "nodes": _NODES}
    missing = ROUTE_BYTES - len(json.dumps(value))
    value["labels"]["pad"] = "x" * missing
    return json.dumps(value).encode()


class ProbedGateway(WatchedGateway):
    """A gateway whose workers carry a probe."""

    def __init__(self, directory: Path, workers: int, etcd: Mapping[str, object], **settings: object) -> None:
        super().__init__(directory, workers, etcd, **settings)
        self.probes = directory / "probes"
        self.probes.mkdir()

    def launch(self, before: Sequence[str] = (), tree: Path = ROOT, pass_fds: Sequence[int] = ()) -> None:
        """Start the master."""
        self.write_conf()
        with (self.directory / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "benchmarks.sync.probe", str(self.probes), str(self.port), "--"),
                    *("-c", str(self.conf)),
                ],
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

    def reset(self) -> None:
        """Forget what was measured."""
        probe.reset(self.probes, sorted(self.workers()))

    def figures(self) -> list[probe.Figures]:
        """Return what each worker has measured."""
        return [probe.read(self.probes, pid) for pid in sorted(self.workers())]

    def memory(self) -> dict[str, float]:
        """Return the memory of the largest worker now, and of the largest ever, in MiB."""
        rollups = [parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in self.workers()]
        peaks = [_status_field(pid, "VmHWM") for pid in self.workers()]
        return {
            "rss_mib": round(max(one["Rss"] for one in rollups) / 1024, 1),
            "pss_mib": round(max(one["Pss"] for one in rollups) / 1024, 1),
            "peak_rss_mib": round(max(peaks) / 1024, 1),
        }


def _status_field(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _blocked(figures: Sequence[probe.Figures]) -> dict[str, float]:
    worst = max(figures, key=lambda one: one.gap)
    return {
        "blocked_ms": round(worst.gap * 1000, 2),
        "blocked_cpu_ms": round(max(one.cpu for one in figures) * 1000, 2),
    }


class Scale:
    """One flavour of routes in one etcd."""

    def __init__(self, options: argparse.Namespace, flavour: str, caller: Caller, wire: Wire, directory: Path) -> None:
        self._options = options
        self._flavour = flavour
        self._caller = caller
        self._wire = wire
        self._gateway = ProbedGateway(
            directory,
            options.workers,
            {"host": [wire.url], "resync_delay": 0.2, "watch": options.watch},
            snapshot=options.snapshot,
            worker_startup_timeout=600,
        )

    async def run(self) -> dict[str, Any]:
        """Load, change one by one, reload."""
        upstreams = {f"{PREFIX}upstreams/{number}": json.dumps({"nodes": _NODES}).encode() for number in range(100)}
        await asyncio.to_thread(self._caller.put_many, upstreams)
        revision = await self._write(range(self._options.routes), 0)
        with contextlib.ExitStack() as stack:
            stack.callback(self._gateway.kill)
            await asyncio.to_thread(self._gateway.launch)
            await self._reached(revision)
            await asyncio.sleep(3.0)  # what follows becoming ready belongs to it: a snapshot is written
            figures = self._gateway.figures()
            result: dict[str, Any] = {
                "load": {
                    "ready_s": [round(one.born_to_ready, 3) for one in figures],
                    **_blocked(figures),
                    **self._gateway.memory(),
                },
                "single": await self._single_changes(),
            }
            for changed in sorted({1, min(1_000, self._options.routes), self._options.routes}):
                result[f"reload_{changed}"] = await self._reload(changed)
            result["end"] = self._gateway.memory()
        return result

    async def _single_changes(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        self._gateway.reset()
        due = loop.time()
        for number in range(self._options.changes):
            due += 0.02
            revision = await self._write((number * 317 % self._options.routes,), number + 1)
            await asyncio.sleep(max(0.0, due - loop.time()))
        await self._reached(revision)
        figures = self._gateway.figures()
        applies = [seconds * 1e6 for one in figures for seconds in one.applies]
        percentiles = quantiles(applies, n=100, method="inclusive")
        return {
            "changes": self._options.changes,
            "applies": len(applies),
            "apply_median_us": round(percentiles[49], 1),
            "apply_p99_us": round(percentiles[98], 1),
            "apply_max_us": round(max(applies), 1),
            **_blocked(figures),
        }

    async def _reload(self, changed: int) -> dict[str, Any]:
        """Change routes behind the backs of all workers, forget the history, and let them list again."""
        self._wire.cut()
        revision = await self._write(range(changed), 1_000_000 + changed)
        await asyncio.to_thread(self._caller.call, "kv/compaction", {"revision": str(revision), "physical": True})
        await asyncio.sleep(0.5)
        self._gateway.reset()
        started = time.monotonic()
        self._wire.mend()
        await self._reached(revision)
        seconds = time.monotonic() - started
        await asyncio.sleep(3.0)
        return {"seconds": round(seconds, 3), **_blocked(self._gateway.figures()), **self._gateway.memory()}

    async def _write(self, numbers: Sequence[int], turn: int) -> int:
        values = {f"{PREFIX}routes/{number}": route(number, self._flavour, turn) for number in numbers}
        return await asyncio.to_thread(self._caller.put_many, values)

    async def _reached(self, revision: int) -> None:
        if not await asyncio.to_thread(self._gateway.wait, revision, PATIENCE):
            raise ScaleError(
                f"revision {revision} is not everywhere after {PATIENCE:.0f} s; {self._gateway.log()[-2000:]}"
            )


async def scale(options: argparse.Namespace, flavour: str, directory: Path) -> dict[str, Any]:
    """Measure one flavour in a directory of its own."""
    with EmbeddedEtcd(directory / "etcd") as etcd:
        wire = await Wire(etcd.url).start()
        caller = Caller([etcd.url], timeout=30)
        try:
            return await Scale(options, flavour, caller, wire, directory).run()
        finally:
            caller.close()
            await wire.stop()


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    spare = max(1, available_cpus() - 1)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_sync", description=__doc__)
    parser.add_argument("--routes", type=int, default=100_000, help=f"of {ROUTE_BYTES} bytes (default 100,000)")
    parser.add_argument(
        "--workers", type=int, default=spare, help=f"of the gateway; etcd needs a CPU too (default {spare})"
    )
    parser.add_argument("--watch", choices=("worker", "node"), default="worker", help="the gateway's etcd.watch")
    parser.add_argument("--flavours", type=lambda text: text.split(","), default=list(FLAVOURS), help="of the routes")
    parser.add_argument("--changes", type=int, default=SINGLE_CHANGES, help=f"one by one (default {SINGLE_CHANGES})")
    parser.add_argument("--snapshot", default="config.snapshot", help="the gateway's snapshot; off for none")
    parser.add_argument("--rounds", type=int, default=1, help="whole measurements; figures are medians (default 1)")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    options = parser.parse_args(arguments)
    if unknown := set(options.flavours) - set(FLAVOURS):
        parser.error(f"unknown flavours: {', '.join(sorted(unknown))}; known: {', '.join(FLAVOURS)}")
    return options


def medians(rounds: Sequence[Any]) -> Any:
    """Return one result of the same form with the median of each figure."""
    first = rounds[0]
    if isinstance(first, dict):
        return {key: medians([one[key] for one in rounds]) for key in first}
    if isinstance(first, list):
        return [medians([one[at] for one in rounds]) for at in range(len(first))]
    return median(rounds)


def complaints(result: Mapping[str, Any]) -> list[str]:
    """Return which bounds are not kept."""
    found: list[str] = []
    for flavour, parts in result.items():
        figures = {
            "load: ready_s": (max(parts["load"]["ready_s"]), BOUNDS["ready_s"]),
            "load: rss_mib": (parts["load"]["rss_mib"], BOUNDS["rss_mib"]),
            "single: apply_median_us": (parts["single"]["apply_median_us"], BOUNDS["apply_us"]),
            **{
                f"{name}: blocked_ms": (p["blocked_ms"], BOUNDS["blocked_ms"])
                for name, p in parts.items()
                if "blocked_ms" in p
            },
        }
        found += [f"{flavour}, {name}: {value} > {bound}" for name, (value, bound) in figures.items() if value > bound]
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure, print and write; 0 if all bounds are kept."""
    options = parse_arguments(arguments)
    result: dict[str, Any] = {}
    rounds: dict[str, list[Any]] = {}
    for _ in range(options.rounds):
        for flavour in options.flavours:
            with tempfile.TemporaryDirectory(prefix="propylon-scale-") as directory:
                rounds.setdefault(flavour, []).append(uvloop.run(scale(options, flavour, Path(directory))))
    result = {flavour: medians(found) for flavour, found in rounds.items()}
    wrong = complaints(result)
    print(json.dumps(result, indent=1))
    print("\n".join(wrong) or "all bounds are kept")
    if options.json is not None:
        header = {
            "machine": machine(),
            "options": {key: value for key, value in vars(options).items() if key != "json"},
        }
        document = {**header, "bounds": BOUNDS, "complaints": wrong, "medians": result, "rounds": rounds}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
