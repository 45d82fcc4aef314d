"""Does an explanation disturb the traffic beside it?

    python -m benchmarks.bench_explain [--rounds 15] [--seconds 5] [--asks 2] [--load 0.15] [--name NAME] [--json]

One worker on one core; origin, etcd, the load and who asks on another. The load comes at a fixed rate
(``benchmarks.load.paced``), a share of what wrk reaches before; with more, the load and the origin, which share a core,
would be measured. Each round has three runs with the same arrivals, in turning order: without explanations, without
again (what noise there is), and with ``GET /v1/explain`` so many times a second, each over a new connection, as
``propylon ctl explain`` and a page that refreshes itself do. What is compared are the p99 within each round.

Two tables of 10,000 routes: by path, and each with a host of its own, where every explanation has to look into 10,000
tables. ``--name`` writes ``results/NAME.json`` and ``results/NAME.md``.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlencode

from benchmarks.load.measure import parse_wrk
from benchmarks.load.report import machine
from benchmarks.load.run import wrk_command
from benchmarks.load.scenarios import Scenario, Setup
from benchmarks.load.sides import ROOT, Cores, Propylon, Surroundings, pinned, running, surroundings

RESULTS = Path(__file__).parent / "results"
ROUTES = 10_000
ASKED = 64  # routes that requests and explanations ask for
WITHOUT, AGAIN, WITH = "without", "again", "with"
EXPLAIN_BOUND_MS = 50
P99_BOUND = 1.1


class ByPath(Propylon):
    """10,000 prefixes, without hosts."""

    title = "by path"

    def host(self, uri: str) -> str:
        """Return the host that goes with a prefix."""
        return "a.example"

    @property
    def control_port(self) -> int:
        """The port of the control address."""
        settings = json.loads((self.directory / "config.yaml").read_text())
        return int(settings["control"]["listen"].rpartition(":")[2])

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Host and path of some requests, spread over all routes."""
        uris = self.setup.route_uris[:: ROUTES // ASKED]
        return [(self.host(uri), f"{uri}item") for uri in uris]


class ByHost(ByPath):
    """10,000 prefixes, each for a host of its own; but the one that is asked at the start."""

    title = "a host each"

    def host(self, uri: str) -> str:
        """Return the host that goes with a prefix."""
        return f"h{uri.split('/')[2]}.example"

    def route(self, prefix: str) -> str:
        """Return a route for a prefix and its host."""
        value = json.loads(super().route(prefix))
        return json.dumps(value if self.setup.check_path.startswith(prefix) else {**value, "host": self.host(prefix)})


class Asker(threading.Thread):
    """Asks for explanations at a steady rate, each over a connection of its own; ``times`` are milliseconds."""

    def __init__(self, side: ByPath, rate: float) -> None:
        super().__init__()
        self.times: list[float] = []
        self.wrong = 0
        self._side = side
        self._pause = 1 / rate
        self._is_over = threading.Event()

    def run(self) -> None:
        asked = self._side.asked
        port = self._side.control_port
        at = 0
        while not self._is_over.wait(self._pause):
            host, uri = asked[at % len(asked)]
            at += 7
            begun = time.perf_counter()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", f"/v1/explain?{urlencode({'host': host, 'uri': uri})}")
            answer = json.loads(connection.getresponse().read())
            connection.close()
            self.times.append((time.perf_counter() - begun) * 1000)
            self.wrong += answer["winner"] is None

    def stop(self) -> None:
        """End, and wait for it."""
        self._is_over.set()
        self.join()


def saturation(side: ByPath, around: Surroundings) -> float:
    """Return the requests a second that wrk reaches."""
    headers = (f"Host: {side.host(side.setup.check_path)}",)
    scenario = Scenario("saturation", "", path=side.setup.check_path, headers=headers, setup=side.setup)
    command = [*pinned(around.cores.load), *wrk_command(scenario, side.port, 3, around.directory)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return parse_wrk(finished.stdout).requests_per_second


def paced(side: ByPath, rate: float, seconds: float, seed: int) -> dict[str, Any]:
    """Run the load once."""
    file = side.directory / "requests.json"
    file.write_text(json.dumps([f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n" for host, path in side.asked]))
    command = [sys.executable, "-m", "benchmarks.load.paced", str(side.port), str(rate), str(seconds), str(file)]
    finished = subprocess.run(
        [*command, "--seed", str(seed)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=seconds + 60
    )
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def measure(side: ByPath, around: Surroundings, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one table."""
    highest = saturation(side, around)
    rate = round(highest * options.load)
    samples: list[dict[str, Any]] = []
    times: list[float] = []
    wrong = 0
    kinds = (WITHOUT, AGAIN, WITH)
    for number in range(options.rounds):
        for at in range(len(kinds)):
            kind = kinds[(number + at) % len(kinds)]
            asker = Asker(side, options.asks) if kind == WITH else None
            if asker is not None:
                asker.start()
            try:
                samples.append({"round": number, "run": kind, **paced(side, rate, options.seconds, number)})
            finally:
                if asker is not None:
                    asker.stop()
                    times += asker.times
                    wrong += asker.wrong
            sys.stderr.write(f"{side.title}: {samples[-1]}\n")
    p99 = {(sample["round"], sample["run"]): sample["p99"] for sample in samples}
    rounds = range(options.rounds)
    return {
        "table": side.title,
        "routes": ROUTES,
        "saturation_per_second": round(highest),
        "rate_per_second": rate,
        "explain_ms": spread(times),
        "p99_ms": {kind: round(median(p99[number, kind] for number in rounds), 3) for kind in kinds},
        "ratio": spread([p99[number, WITH] / p99[number, WITHOUT] for number in rounds]),
        "ratio_of_noise": spread([p99[number, AGAIN] / p99[number, WITHOUT] for number in rounds]),
        "errors": sum(sample["errors"] for sample in samples) + wrong,
        "samples": samples,
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return the median of some values, between which half of them are, and the extremes."""
    quarters = quantiles(values, n=4, method="inclusive")
    found = {"median": quarters[1], "q1": quarters[0], "q3": quarters[2], "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def markdown(results: dict[str, Any]) -> str:
    """Write the results as a table."""
    about, how = results["machine"], results["options"]
    lines = [
        f"# Explain beside traffic, {about['time'][:10]}",
        "",
        f"{about['cpu']}, {about['cores']} cores, {about['system']}, Python {results['python']}; `bench_explain.py`.",
        f"{how['rounds']} rounds, three runs of {how['seconds']:g} s each, {how['asks']:g} explanations a second,",
        f"load at {how['load']:.0%} of saturation.",
        f"Bounds: an explanation {EXPLAIN_BOUND_MS} ms, the ratio of the p99 {P99_BOUND}. In brackets the quartiles.",
        "",
        "| 10,000 routes | requests/s | explain, ms (most) | p99 without, ms | p99 with, ms | ratio | noise |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['table']} | {row['rate_per_second']:,} | {row['explain_ms']['median']} ({row['explain_ms']['max']}) "
        f"| {row['p99_ms'][WITHOUT]} | {row['p99_ms'][WITH]} | {_shown(row['ratio'])} "
        f"| {_shown(row['ratio_of_noise'])} |"
        for row in results["rows"]
    ]
    return "\n".join(lines) + "\n"


def _shown(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} ({ratio['q1']:.2f} to {ratio['q3']:.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of a round's three runs")
    parser.add_argument("--asks", type=float, default=2.0, help="explanations a second")
    parser.add_argument("--load", type=float, default=0.15, help="share of what wrk reaches")
    parser.add_argument("--only", default="", help="tables whose names contain this")
    parser.add_argument("--name", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    about, cores = machine(), Cores.choose()
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)  # of all that are started here, too
    if cores.load is not None:
        os.sched_setaffinity(0, {cores.load})
    rows = []
    with tempfile.TemporaryDirectory() as directory, surroundings(Path(directory), cores, with_etcd=True) as around:
        for kind in (ByPath, ByHost):
            if options.only in kind.title:
                with running(kind(Setup(routes=ROUTES), around)) as side:
                    assert isinstance(side, ByPath)
                    rows.append(measure(side, around, options))
    how = {name: getattr(options, name) for name in ("rounds", "seconds", "asks", "load")}
    results = {"machine": about, "python": platform.python_version(), "options": how, "rows": rows}
    print(json.dumps(results, indent=2) if options.json else markdown(results))
    if options.name:
        (RESULTS / f"{options.name}.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / f"{options.name}.md").write_text(markdown(results))


if __name__ == "__main__":
    main()
