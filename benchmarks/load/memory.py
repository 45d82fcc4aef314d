"""How much memory does a worker take, with few and with many routes?

RSS counts every page that a worker maps; PSS (proc(5), ``smaps_rollup``) divides a page by the number of
processes that share it, so the PSS of all workers may be added up.
"""

from pathlib import Path
from typing import Any

from benchmarks.load.scenarios import Setup
from benchmarks.load.sides import SIDES, SideError, Surroundings, get, running

_WORKERS = 2
_ROUTES = (10, 10_000)

# New connections are spread over the workers by the kernel: so many make it certain that each has been used.
_REQUESTS = 200


def parse_rollup(text: str) -> dict[str, int]:
    """Return the fields of a ``smaps_rollup`` file, in KiB."""
    fields = (line.split() for line in text.splitlines()[1:])
    return {words[0].rstrip(":"): int(words[1]) for words in fields if words[-1] == "kB"}


def measure(around: Surroundings, side_names: list[str]) -> list[dict[str, Any]]:
    """Measure the workers of each side at both numbers of routes; MiB per worker, the largest of them."""
    results = []
    for name in side_names:
        for routes in _ROUTES:
            setup = Setup(workers=_WORKERS, routes=routes)
            with running(SIDES[name](setup, around)) as side:
                for _ in range(_REQUESTS):
                    if get(side.port, setup.check_path)[0] != 200:
                        raise SideError(f"{name} does not serve {setup.check_path}")
                rollups = [parse_rollup(Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in side.workers]
            results.append(
                {
                    "side": name,
                    "routes": routes,
                    "processes": len(rollups),
                    "rss_mib": max(rollup["Rss"] for rollup in rollups) / 1024,
                    "pss_mib": max(rollup["Pss"] for rollup in rollups) / 1024,
                }
            )
    return results


def describe(results: list[dict[str, Any]]) -> str:
    """Return the results as a table."""
    lines = [f"memory per worker  {'routes':>8}{'RSS MiB':>10}{'PSS MiB':>10}"]
    lines += [
        f"  {result['side']:17}{result['routes']:8}{result['rss_mib']:10.1f}{result['pss_mib']:10.1f}"
        for result in results
    ]
    return "\n".join(lines)
