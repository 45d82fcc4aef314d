"""What does it cost to find the route of a request, and to change one route, in large and in unkind tables?

    python -m benchmarks.bench_routing [--routes 100000] [--seconds 0.3] [--name NAME] [--json]

Each table is matched against some hundred requests in turn, none of which is remembered. A figure is the best pass over
all of them, per match, in microseconds; "change" is to take a route out and to put it in again. ``--name`` writes
``results/NAME.json`` and ``results/NAME.md``.
"""

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.load.report import machine
from worker.exchange import Exchange
from worker.messages import Framing, Request
from worker.routing.route import Route
from worker.routing.router import Mode, Router, build_router

RESULTS = Path(__file__).parent / "results"
REQUESTS = 256
HOSTS_FIRST: Mode = "radixtree_host_uri"
PATHS_FIRST: Mode = "radixtree_uri"
PARAMETERS: Mode = "radixtree_uri_with_parameter"
UNKIND = 10_000  # routes of the unkind tables


class Row(NamedTuple):
    """A route and a request that it wins."""

    uri: str
    path: str
    host: str = ""
    asked_host: str = "a.example.com"


class Table(NamedTuple):
    """A table to measure, and what one match may cost, in microseconds; 0: whatever it costs."""

    name: str
    mode: Mode
    rows: Callable[[int], Iterable[Row]]
    bound: float
    routes: int = 0  # instead of the option


def _name(at: int) -> str:
    return f"/service-{at % 1000}/resource-{at}"


def _words(count: int) -> list[str]:
    """Return so many words of two letters, which part as often as words can."""
    chance = random.Random(1)
    return sorted({"".join(chance.choices("ab", k=60)) for _ in range(count)})


LONG = "/" + "/".join(["a-long-prefix-that-all-of-them-share"] * 50)
TABLES = [
    Table("exact", HOSTS_FIRST, lambda n: (Row(_name(at), _name(at)) for at in range(n)), 3),
    Table("prefix", HOSTS_FIRST, lambda n: (Row(f"{_name(at)}/*", f"{_name(at)}/x") for at in range(n)), 3),
    Table("exact, 100 hosts", HOSTS_FIRST,
          lambda n: (Row(_name(at), _name(at), f"h{at % 100}.com", f"h{at % 100}.com") for at in range(n)), 3),
    Table("prefix, 100 wildcard hosts", HOSTS_FIRST,
          lambda n: (Row(f"{_name(at)}/*", f"{_name(at)}/x", f"*.h{at % 100}.com", f"a.h{at % 100}.com")
                     for at in range(n)), 6),
    Table("exact, by uri", PATHS_FIRST, lambda n: (Row(_name(at), _name(at)) for at in range(n)), 3),
    Table("prefix and host, by uri", PATHS_FIRST,
          lambda n: (Row(f"{_name(at)}/*", f"{_name(at)}/x", f"h{at % 100}.com", f"h{at % 100}.com")
                     for at in range(n)), 6),
    Table("parameter", PARAMETERS, lambda n: (Row(f"{_name(at)}/:id", f"{_name(at)}/7") for at in range(n)), 6),
    Table("two parameters", PARAMETERS,
          lambda n: (Row(f"{_name(at)}/:id/posts/:post", f"{_name(at)}/7/posts/8") for at in range(n)), 6),
    Table("parameter first", PARAMETERS, lambda n: (Row(f"/:tenant/r{at}/:id", f"/t/r{at}/7") for at in range(n)), 30),
    Table("wildcards on one host", HOSTS_FIRST,
          lambda n: (Row(f"{_name(at)}/*", f"{_name(at)}/x", "h.com", "h.com") for at in range(n)), 30, UNKIND),
    Table("wildcards in one bucket", HOSTS_FIRST,
          lambda n: (Row(f"/a/*/r{at}", f"/a/b/c/r{at}", "h.com", "h.com") for at in range(n)), 30, UNKIND),
    Table("wildcards with equal tails", HOSTS_FIRST,
          lambda n: (Row(f"/a/*/r{at}/*/edit", f"/a/b/r{at}/c/edit", "h.com", "h.com") for at in range(n)), 30, UNKIND),
    Table("hosts in one bucket, by uri", PATHS_FIRST,
          lambda n: (Row("/*", "/x", f"h{at}.com", f"h{at}.com") for at in range(n)), 30, UNKIND),
    Table("wildcard hosts in one bucket, by uri", PATHS_FIRST,
          lambda n: (Row("/*", "/x", f"*.h{at}.com", f"a.h{at}.com") for at in range(n)), 30, UNKIND),
    Table("long shared prefix", HOSTS_FIRST,
          lambda n: (Row(f"{LONG}/{at}/*", f"{LONG}/{at}/x") for at in range(n)), 30, UNKIND),
    Table("keys of two letters", HOSTS_FIRST,
          lambda n: (Row(f"/{word}/*", f"/{word}/x") for word in _words(n)), 30, UNKIND),
    Table("100 nested prefixes", HOSTS_FIRST,
          lambda n: (Row(f"/{'a' * at}*", f"/{'a' * at}") for at in range(n)), 30, 100),
    Table("4,000 nested prefixes", HOSTS_FIRST,
          lambda n: (Row(f"/{'a' * at}*", f"/{'a' * at}") for at in range(n)), 0, 4000),
    Table("no route, long path", HOSTS_FIRST,
          lambda n: (Row(f"{_name(at)}/*", "/" + "x/" * 2000) for at in range(n)), 30),
]  # fmt: skip


class Client:
    """A client connection, for the address."""

    remote_address = "192.0.2.1"


def exchange(row: Row) -> Exchange:
    """Return what arrives."""
    path, host = row.path.encode(), row.asked_host.encode()
    made = Exchange(Client(), 0.0)  # type: ignore[arg-type]
    made.request = Request(b"GET", path, path, host, host, b"\r\n", True, Framing.NONE, 0, b"")
    return made


def best(work: Callable[[], None], count: int, seconds: float) -> float:
    """Return the microseconds that one of ``count`` takes in the best pass: the one that nobody else disturbed."""
    fastest = float("inf")
    until = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < until:
        work()
        fastest = min(fastest, time.perf_counter() - begun)
    return fastest / count * 1e6


def match_all(router: Router, exchanges: Sequence[Exchange]) -> None:
    """Match each once."""
    match = router.match
    for asked in exchanges:
        match(asked)


def measure(table: Table, routes: int, seconds: float) -> dict[str, Any]:
    """Fill a router and measure it."""
    router = build_router(table.mode)
    rows = list(table.rows(table.routes or routes))
    entered = []
    begun = time.perf_counter()
    for at, row in enumerate(rows):
        route = Route(f"{at:06}", (router.pattern(row.uri),), (row.host,) if row.host else (), frozenset((b"GET",)), 0)
        router.add(route)
        entered.append(route)
    filled = time.perf_counter() - begun
    chosen = random.Random(7).sample(range(len(rows)), min(REQUESTS, len(rows)))
    exchanges = [exchange(rows[at]) for at in chosen]
    changed = [entered[at] for at in chosen]

    def change_all() -> None:
        for route in changed:
            router.remove(route)
            router.add(route)

    match_us = best(lambda: match_all(router, exchanges), len(exchanges), seconds)
    found = sum(router.match(asked) is entered[at] for at, asked in zip(chosen, exchanges, strict=True))
    return {
        "table": table.name,
        "mode": table.mode,
        "routes": len(rows),
        "found": round(found / len(exchanges), 3),
        "match_us": round(match_us, 2),
        "bound_us": table.bound or None,
        "change_us": round(best(change_all, len(changed), seconds), 2),
        "filled_us": round(filled / len(rows) * 1e6, 2),
    }


def markdown(results: dict[str, Any]) -> str:
    """Write the results as a table."""
    about = results["machine"]
    lines = [
        f"# Routing, {about['time'][:10]}",
        "",
        f"{about['cpu']}, {about['cores']} cores, {about['system']}, Python {results['python']}; `bench_routing.py`.",
        "Microseconds, the best pass over 256 requests.",
        "",
        "| table | mode | routes | match | bound | change |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['table']} | `{row['mode']}` | {row['routes']:,} | {row['match_us']} | {row['bound_us'] or '-'} "
        f"| {row['change_us']} |"
        for row in results["rows"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routes", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    parser.add_argument("--only", default="", help="tables whose names contain this")
    parser.add_argument("--name", default="")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for table in TABLES:
        if options.only in table.name:
            rows.append(measure(table, options.routes, options.seconds))
            if not options.json:
                print("{table:38} {routes:7} match {match_us:8} ({bound_us}) change {change_us:8}".format(**rows[-1]))
    results = {"machine": machine(), "python": platform.python_version(), "rows": rows}
    if options.json:
        json.dump(results, sys.stdout, indent=2)
    if options.name:
        (RESULTS / f"{options.name}.json").write_text(json.dumps(results, indent=2) + "\n")
        (RESULTS / f"{options.name}.md").write_text(markdown(results))


if __name__ == "__main__":
    main()
