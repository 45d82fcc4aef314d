"""What does a large file cost a worker: how long until it is live, and how long is the event loop held meanwhile?

    python -m benchmarks.bench_file_provider [--routes 100000] [--format yaml|json] [--json]

A provider with a store that nobody listens to reads a file of routes of about 500 bytes; then one route of it is
changed. "held" is the longest time between two rounds of an event loop that does nothing else but wake every
millisecond, with what other processes on the machine take away; "held_cpu" is what our process, all its threads,
has itself done in the busiest of these times.
"""

import argparse
import asyncio
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import uvloop

from config_sync.cache import ConfigStore
from config_sync.file import FileProvider
from config_sync.settings import YamlSettings


def route(at: int, priority: int) -> dict[str, object]:
    """Make a route of about 500 bytes."""
    return {
        "id": f"r{at}",
        "uri": f"/api/v1/service{at}/*",
        "hosts": [f"h{at % 97}.example.com"],
        "methods": ["GET", "POST"],
        "priority": priority,
        "desc": "d" * 200,
        "labels": {"team": f"t{at % 50}", "env": "prod"},
        "upstream": {
            "type": "roundrobin",
            "nodes": {f"10.0.{at % 250}.1:8080": 1, f"10.0.{at % 250}.2:8080": 1},
            "timeout": {"connect": 1, "send": 5, "read": 5},
        },
    }


def text_of(routes: int, kind: str, changed: bool) -> Iterator[str]:
    """Write the file, piece by piece; with ``changed`` one route is another."""
    yield "routes:\n" if kind == "yaml" else '{"routes": [\n'
    for at in range(routes):
        value = route(at, 9 if changed and at == routes // 2 else at % 7)
        yield _yaml_of(value) if kind == "yaml" else json.dumps(value) + (",\n" if at < routes - 1 else "\n")
    yield "#END\n" if kind == "yaml" else "]}\n"


def _yaml_of(value: dict[str, object]) -> str:
    """Write one route in blocks, as people do; to dump 100,000 takes PyYAML half a minute."""
    lines: list[str] = []
    _block(value, "  ", lines)
    return "- " + "\n".join(lines).lstrip() + "\n"


def _block(value: object, indent: str, lines: list[str]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, dict | list):
                lines.append(f"{indent}{name}:")
                _block(inner, indent + "  ", lines)
            else:
                lines.append(f"{indent}{name}: {inner}")
    elif isinstance(value, list):
        lines.extend(f"{indent}- {inner}" for inner in value)


class Rounds:
    """The longest time between two rounds of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.restart()
        self._round()

    def restart(self) -> None:
        """Forget what was."""
        self.longest = self.busiest = 0.0
        self._last, self._last_cpu = time.perf_counter(), time.process_time()

    def _round(self) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        self.longest = max(self.longest, now - self._last - 0.001)
        self.busiest = max(self.busiest, cpu - self._last_cpu)
        self._last, self._last_cpu = now, cpu
        self._loop.call_later(0.001, self._round)


def measure(routes: int, kind: str) -> dict[str, object]:
    """Load a file, change a route, and return seconds and MiB."""
    results: dict[str, object] = {
        "python": platform.python_version(),
        "uvloop": version("uvloop"),
        "pyyaml": version("PyYAML"),
        "format": kind,
        "routes": routes,
    }
    loop = uvloop.new_event_loop()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"apisix.{kind}"
        with path.open("w") as file:
            file.writelines(text_of(routes, kind, changed=False))
        results["file_mb"] = round(path.stat().st_size / 1e6, 1)
        store = ConfigStore()
        provider = FileProvider(YamlSettings(path=str(path)), store, loop, lambda revision: loop.stop())
        rounds = Rounds(loop)
        for name in ("load", "change"):
            if name == "change":
                other = path.with_name("other")
                with other.open("w") as file:
                    file.writelines(text_of(routes, kind, changed=True))
                other.rename(path)
                rounds.restart()
            began, cpu = time.perf_counter(), time.process_time()
            if name == "load":
                provider.start()
            loop.run_forever()
            results[f"{name}_seconds"] = round(time.perf_counter() - began, 3)
            results[f"{name}_cpu_seconds"] = round(time.process_time() - cpu, 3)
            results[f"{name}_held_ms"] = round(rounds.longest * 1000, 1)
            results[f"{name}_held_cpu_ms"] = round(rounds.busiest * 1000, 1)
        results["max_rss_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        provider.stop()
    results["reader_max_rss_mib"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routes", type=int, default=100_000)
    parser.add_argument("--format", choices=("yaml", "json"), default="yaml")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options.routes, options.format)
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        return
    for name, value in results.items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
