"""Changes of routes with plugins, and requests through them: does a worker stay as small as it was?

``python -m benchmarks.soak_plugins --help``. One worker, in this process, without sockets: its store is given change
after change, and every so often a request goes through a route that has just changed. RSS is read at the end of each
tenth; the drift is that from the end of the second tenth, when everything has been needed once, to the end.
"""

import argparse
import gc
import json
import logging
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.load.report import machine
from worker.memory import resident_memory
from worker.plugins.testing import PluginKit

ROUTES = 200
TENTHS = 10
MOST_DRIFT = 0.03
UPSTREAM = {"nodes": {"127.0.0.1:1980": 1}}

# What a route may have; those that a gateway does not know are left out.
PLUGINS: dict[str, Mapping[str, Any]] = {
    "key-auth": {},
    "cors": {"allow_origins": "https://a.example"},
    "ip-restriction": {"whitelist": ["127.0.0.0/8"]},
    "uri-blocker": {"block_rules": ["^/blocked"]},
    "request-id": {},
    "echo": {"after_body": "!"},
    "limit-count": {"count": 1_000_000, "time_window": 60},
    "prometheus": {},
    "proxy-rewrite": {"headers": {"set": {"X-A": "1"}}},
    "response-rewrite": {"headers": {"set": {"X-B": "1"}}},
    "gzip": {},
}


class Soak:
    """One run."""

    def __init__(self, kit: PluginKit, seed: int) -> None:
        self._kit = kit
        self._chance = random.Random(seed)
        known = kit.context.plugins.registry.names()
        self.plugins = [name for name in PLUGINS if name in known]
        self.statuses: dict[int, int] = {}

    def change(self, number: int) -> str:
        """Write or delete something that has plugins; returns the path of a route that it concerns."""
        chance = self._chance
        name = f"r{chance.randrange(ROUTES)}"
        kind = chance.random()
        if kind < 0.1:
            self._kit.put(f"routes/{name}", None)
        elif kind < 0.2:
            self._kit.put(f"services/{chance.randrange(10)}", {"upstream": UPSTREAM, "plugins": self._some(2, number)})
        elif kind < 0.25:
            plugins = {**self._some(1, number), "key-auth": {"key": f"key-{chance.randrange(20)}-{number}"}}
            self._kit.put(f"consumers/c{chance.randrange(20)}", {"plugins": plugins})
        elif kind < 0.27:
            self._kit.put("global_rules/1", {"plugins": self._some(1, number)} if chance.random() < 0.5 else None)
        else:
            service = {"service_id": str(chance.randrange(10))} if chance.random() < 0.3 else {}
            route = {"uri": f"/{name}", "upstream": UPSTREAM, "plugins": self._some(3, number), **service}
            self._kit.put(f"routes/{name}", route)
        return f"/{name}"

    def _some(self, most: int, number: int) -> dict[str, Any]:
        names = self._chance.sample(self.plugins, self._chance.randint(1, most))
        plugins: dict[str, Any] = {name: dict(PLUGINS[name]) for name in names}
        for name in ("uri-blocker", "echo"):  # so that nothing is what it was
            if name in plugins:
                plugins[name] = (
                    {"block_rules": [f"^/{number}$"]} if name == "uri-blocker" else {"after_body": f"{number}"}
                )
        return plugins

    def ask(self, path: str) -> None:
        """Send a request."""
        status = self._kit.request("GET", path, {"apikey": "none", "Accept-Encoding": "gzip"}).status
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self._kit.received.clear()


def soak(changes: int, every: int, seed: int) -> dict[str, Any]:
    """Run; returns the result as it is written to a file."""
    with PluginKit({}) as kit:
        for number in range(10):
            kit.put(f"services/{number}", {"upstream": UPSTREAM, "plugins": {}})
        run = Soak(kit, seed)
        sizes: list[int] = []
        began = time.monotonic()
        for number in range(changes):
            path = run.change(number)
            if number % every == 0:
                run.ask(path)
            if (number + 1) % (changes // TENTHS) == 0:
                gc.collect()
                sizes.append(resident_memory())
                print(f"{number + 1:8} changes  {sizes[-1] / 2**20:7.2f} MiB", file=sys.stderr, flush=True)
        failures = kit.context.plugins.failures
        seconds = time.monotonic() - began
    return {
        "machine": machine(),
        "changes": changes,
        "seconds": round(seconds, 1),
        "plugins": run.plugins,
        "statuses": dict(sorted(run.statuses.items())),
        "failures": failures,
        "rss": sizes,
        "drift": round(sizes[-1] / sizes[1] - 1, 4),
    }


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak_plugins", description=__doc__)
    parser.add_argument("--changes", type=int, default=200_000, help="at least 1,000 (default 200,000)")
    parser.add_argument("--every", type=int, default=5, help="changes for one request (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is random (default 1)")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run, print and write; 0 if the worker has stayed as small as it was, and no plugin has failed."""
    options = parse_arguments(arguments)
    logging.getLogger("propylon").addHandler(logging.NullHandler())  # unknown routes are no news
    result = soak(max(options.changes, 1000), options.every, options.seed)
    print(json.dumps({name: value for name, value in result.items() if name != "machine"}, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if result["drift"] > MOST_DRIFT or result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
