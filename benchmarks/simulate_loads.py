"""What is it worth that ``least_conn`` and ``ewma`` know of the other workers' requests? A simulation.

    python -m benchmarks.simulate_loads [--requests 20000] [--json]

Requests come at random times to random workers. Each worker chooses a node; a node works on so many requests at a
time, the others wait; service times are exponential, and one node is five times slower than the others. Reported are
response times in milliseconds, and by how much the busiest node is above the mean, in requests under way.

    alone      a worker counts its own requests (ewma: measures its own response times)
    snapshot   counts of all workers as they were published, and read, every 0.1 s
    tick       published at every change, read every 0.1 s
    turn       published at every change, those of one node read at each choice: what we do for least_conn
    exact      published at every change, all read at each choice (ewma: one average for all workers)
"""

import argparse
import heapq
import json
import random
import sys
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from math import exp

WORKERS = 4
SLOWER = 5.0
INTERVAL = 0.1  # seconds
SEEDS = (1, 2, 3)
POLICIES = (
    *("least_conn alone", "least_conn snapshot", "least_conn tick", "least_conn turn", "least_conn exact"),
    *("ewma alone", "ewma exact"),
)


@dataclass(frozen=True)
class Case:
    """Nodes, each with ``servers`` that need ``service`` seconds on average, used to a part of what they can do."""

    nodes: int
    servers: int
    service: float
    use: float

    def speed(self, node: int) -> float:
        """Return how much longer a node takes than an ordinary one."""
        return 1.0 if node else SLOWER

    def rate(self) -> float:
        """Return requests per second."""
        return self.use * sum(self.servers / (self.service * self.speed(node)) for node in range(self.nodes))


@dataclass
class Worker:
    """What one worker counts, and what it has seen of others."""

    at: int
    own: list[int]
    others: list[int]
    published: list[int]
    averages: list[tuple[float, float]]
    turn: int = 0


@dataclass
class Run:
    """One simulation."""

    case: Case
    policy: str
    requests: int
    chance: random.Random
    times: list[float] = field(default_factory=list)
    excess: float = 0.0  # (busiest - mean) x seconds

    def __post_init__(self) -> None:
        nodes = self.case.nodes
        self.kind, self.sharing = self.policy.split()
        self.workers = [
            Worker(at, [0] * nodes, [0] * nodes, [0] * nodes, [(0.0, -100.0)] * nodes) for at in range(WORKERS)
        ]
        self.total = [0] * nodes
        self.busy = [0] * nodes
        self.waiting: list[deque[tuple[Worker, float]]] = [deque() for _ in range(nodes)]
        self.events: list[tuple[float, int, tuple[Worker, int, float] | Worker | None]] = []
        self.order = count()

    def later(self, at: float, event: "tuple[Worker, int, float] | Worker | None") -> None:
        """Let something happen: an end, a worker's look at the others, or (None) a request."""
        heapq.heappush(self.events, (at, next(self.order), event))

    def run(self) -> "Run":
        """Go through all events."""
        self.later(0.0, None)
        for worker in self.workers:
            self.later(INTERVAL * worker.at / WORKERS, worker)
        begun, now = 0, 0.0
        while len(self.times) < self.requests:
            at, _, event = heapq.heappop(self.events)
            self.excess += (at - now) * (max(self.total) - sum(self.total) / self.case.nodes)
            now = at
            if event is None:
                begun += 1
                if begun < self.requests:
                    self.later(now + self.chance.expovariate(self.case.rate()), None)
                self.begin(self.chance.choice(self.workers), now)
            elif isinstance(event, Worker):
                self.look(event)
                self.later(now + INTERVAL, event)
            else:
                self.end(*event, now)
        self.excess /= now
        return self

    def begin(self, worker: Worker, now: float) -> None:
        """Send a request of a worker to a node."""
        node = self.quicker(worker, now) if self.kind == "ewma" else self.least(worker)
        worker.own[node] += 1
        self.total[node] += 1
        if self.busy[node] < self.case.servers:
            self.serve(worker, node, now, now)
        else:
            self.waiting[node].append((worker, now))

    def serve(self, worker: Worker, node: int, since: float, now: float) -> None:
        """Begin to work on a request."""
        self.busy[node] += 1
        mean = self.case.service * self.case.speed(node)
        self.later(now + self.chance.expovariate(1 / mean), (worker, node, since))

    def end(self, worker: Worker, node: int, since: float, now: float) -> None:
        """Answer a request, and begin with the next."""
        worker.own[node] -= 1
        self.total[node] -= 1
        self.busy[node] -= 1
        self.times.append(now - since)
        averages = self.averages(worker)
        average, at = averages[node]
        kept = exp((at - now) / 10)
        averages[node] = average * kept + (now - since) * (1 - kept), now
        if self.waiting[node]:
            other, came = self.waiting[node].popleft()
            self.serve(other, node, came, now)

    def averages(self, worker: Worker) -> list[tuple[float, float]]:
        """Return the averages a worker uses."""
        return (self.workers[0] if self.sharing == "exact" else worker).averages

    def quicker(self, worker: Worker, now: float) -> int:
        """Choose as ``ewma``."""
        averages = self.averages(worker)
        first, second = self.chance.sample(range(self.case.nodes), 2)
        scores = [average * exp((at - now) / 10) for average, at in (averages[first], averages[second])]
        return first if scores[0] <= scores[1] else second

    def least(self, worker: Worker) -> int:
        """Choose as ``least_conn``; of equal nodes the next in turn."""
        nodes = self.case.nodes
        if self.sharing == "exact":
            worker.others = [total - own for total, own in zip(self.total, worker.own, strict=True)]
        elif self.sharing == "turn":
            seen = worker.turn % nodes
            worker.others[seen] = self.total[seen] - worker.own[seen]
        order = [(worker.at + step) % nodes for step in range(nodes)]
        node = min(order, key=lambda n: worker.own[n] + worker.others[n])
        worker.at, worker.turn = node + 1, worker.turn + 1
        return node

    def look(self, worker: Worker) -> None:
        """Look at the other workers' counts."""
        worker.published = worker.own[:]
        if self.sharing == "tick":
            worker.others = [total - own for total, own in zip(self.total, worker.own, strict=True)]
        elif self.sharing == "snapshot":
            others = [other.published for other in self.workers if other is not worker]
            worker.others = [sum(counts) for counts in zip(*others, strict=True)]


def main() -> None:
    """Simulate, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="in each run (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = []
    for nodes, servers, service in ((4, 4, 0.005), (8, 4, 0.005), (4, 32, 0.005), (20, 2, 0.020)):
        for use in (0.5, 0.8):
            for policy in POLICIES:
                case = Case(nodes, servers, service, use)
                runs = [Run(case, policy, options.requests, random.Random(seed)).run() for seed in SEEDS]
                times = sorted(time for run in runs for time in run.times)
                rows.append(
                    {
                        "nodes": nodes,
                        "servers": servers,
                        "service_ms": service * 1e3,
                        "use": use,
                        "policy": policy,
                        "mean_ms": round(sum(times) / len(times) * 1e3, 2),
                        "p99_ms": round(times[len(times) * 99 // 100] * 1e3, 2),
                        "excess": round(sum(run.excess for run in runs) / len(runs), 2),
                    }
                )
                if not options.json:
                    print(*(f"{name} {value}" for name, value in rows[-1].items()), sep="  ", flush=True)
    if options.json:
        json.dump(rows, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
