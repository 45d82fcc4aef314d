"""What does a choice cost, and what does it cost to build a ring?

    python -m benchmarks.bench_balancers [--json]

``next`` is timed in a loop of Python, in CPU time; the cost of the empty loop is taken off. Tracked balancers are timed
with the end of the exchange, which gives the place back. The least of ``REPEATS`` counts, for other processes can only
add. Every peer has three requests under way, so that ``least_conn`` finds none idle.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from worker.exchange import Exchange
from worker.upstream.balancers import Balancer, build
from worker.upstream.balancers.build import USES_LOAD
from worker.upstream.balancers.ring import Ring
from worker.upstream.balancers.tracked import Tracked
from worker.upstream.load import Load
from worker.upstream.peer import Peer
from worker.upstream.pool import Pool, PoolKey
from worker.upstream.shared_loads import SharedLoads

REPEATS = 7
ROUNDS = 50_000
WORKERS = 4


def exchange() -> Exchange:
    """Make an exchange without a connection."""
    downstream: Any = SimpleNamespace(remote_address="10.9.8.7")
    return Exchange(downstream, 0.0)


def peers_of(count: int, weights: Callable[[int], int], limit: int = 0, shared: bool = False) -> list[Peer]:
    """Make peers; ``shared``: with the loads of four workers."""
    loads = SharedLoads(rows=WORKERS)
    for number in range(WORKERS):
        loads.open(number)
    row = loads.row(0) if shared else None
    peers = []
    for at in range(count):
        pool: Pool[Any] = Pool(PoolKey("http", f"10.0.0.{at}", 80, 1, 60.0, 1000))
        peer = Peer(f"10.0.0.{at}", 80, weights(at), 0, pool, max_conns=limit)
        peer.load = Load(peer.address, row)
        for _ in range(3):
            peer.load.enter()
        peers.append(peer)
    return peers


def cost_of(balancer: Balancer) -> float:
    """Return the seconds of one choice, and of its end if that is told."""
    given = exchange()
    best = float("inf")
    for _ in range(REPEATS):
        begun = time.thread_time()
        for _ in range(ROUNDS):
            balancer.next(given)
            if given.place is not None:
                given.place.leave(given)
        chosen = time.thread_time()
        for _ in range(ROUNDS):
            if given.place is not None:
                break
        best = min(best, (chosen - begun) - (time.thread_time() - chosen))
    return best / ROUNDS


def choices() -> dict[str, float]:
    """Return nanoseconds for each balancer and number of peers."""
    found = {}

    def measure(
        name: str, type_: str, count: int, weights: Callable[[int], int] = lambda at: 1, **options: Any
    ) -> None:
        peers = peers_of(count, weights, **options)
        balancer = build(type_, peers, 0, lambda exchange: b"/a/path?of=some&length=1")
        if balancer is not None and (type_ in USES_LOAD or options.get("limit")):
            balancer = Tracked(balancer, peers, time.monotonic if type_ == "ewma" else None)
        found[name] = round(cost_of(cast("Balancer", balancer)) * 1e9, 1)

    measure("single", "roundrobin", 1)
    for count in (2, 10, 100):
        measure(f"roundrobin {count}", "roundrobin", count)
        measure(f"roundrobin {count} weighted", "roundrobin", count, lambda at: 1 + at % 5)
        measure(f"chash {count}, key given", "chash", count)
        measure(f"ewma {count}", "ewma", count)
        measure(f"least_conn {count}", "least_conn", count)
        measure(f"least_conn {count} shared by {WORKERS}", "least_conn", count, shared=True)
        measure(f"roundrobin {count} max_conns", "roundrobin", count, limit=100)
    return found


def rings() -> dict[str, dict[str, float]]:
    """Return, for rings of some sizes, how long they take to build and the longest step, in milliseconds."""
    found = {}
    for count, weight in ((10, 1), (100, 1), (100, 7), (1_000, 1)):
        nodes = [(f"10.{at >> 8}.{at & 255}.1:8080", weight if at % 2 else weight + 1) for at in range(count)]
        attempts = []
        for _ in range(REPEATS):
            ring = Ring(nodes)
            steps = []
            begun = time.thread_time()
            for _ in ring.begin():
                now = time.thread_time()
                steps.append(now - begun)
                begun = now
            steps.append(time.thread_time() - begun)
            attempts.append(steps)
        steps = [min(step) for step in zip(*attempts, strict=True)]
        found[f"{len(ring.points)} points"] = {
            "total_ms": round(sum(steps) * 1e3, 2),
            "longest_step_ms": round(max(steps) * 1e3, 2),
        }
    return found


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    result = {"python": platform.python_version(), "next_ns": choices(), "rings": rings()}
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        return
    for name, nanoseconds in result["next_ns"].items():  # type: ignore[attr-defined]
        print(f"{name:32} {nanoseconds:8.1f} ns")
    for name, ring in result["rings"].items():  # type: ignore[attr-defined]
        print(f"ring of {name:24} {ring['total_ms']:8.2f} ms, longest step {ring['longest_step_ms']:.2f} ms")


if __name__ == "__main__":
    main()
