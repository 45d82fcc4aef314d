"""What shared counters and notes cost: ``python -m benchmarks.bench_shared_state``.

Microseconds per call, the best of seven runs, and what four processes see that count the same key without pause.
"""

import os
import time
from collections.abc import Callable
from itertools import count

from worker.shared_state.memory import SharedState

CALLS = 20_000
RUNS = 7
WORKERS = (4, 16, 64)


def measure(step: Callable[[int], object], calls: int = CALLS) -> float:
    """Return microseconds per call."""
    best = float("inf")
    for _ in range(RUNS):
        began = time.perf_counter()
        for at in range(calls):
            step(at)
        best = min(best, time.perf_counter() - began)
    return best / calls * 1e6


def alone(workers: int) -> None:
    """One process calls, with the rows of so many workers."""
    state = SharedState()
    for number in range(workers):
        state.open(number)
    counters = state.counters(0)
    keys = [b"%d" % at for at in range(10_000)]
    fresh = count()
    figures = {
        "increment, one key": measure(lambda _: counters.increment(b"key", 600)),
        "increment, 10,000 keys": measure(lambda at: counters.increment(keys[at % 10_000], 600)),
        "increment, a new key": measure(lambda _: counters.increment(b"new %d" % next(fresh), 600), 1_000),
        "hold and let go": measure(lambda at: counters.hold(b"key", -1 if at % 2 else 1)) * 2,
        "put": measure(lambda at: state.notes.put(keys[at % 1000], b"x" * 60, 600)),
        "get": measure(lambda at: state.notes.get(keys[at % 1000])),
    }
    print(f"{workers} workers: " + ", ".join(f"{name} {micros:.1f} us" for name, micros in figures.items()))


def together(processes: int = 4) -> None:
    """Several processes count one key."""
    state = SharedState()
    for number in range(processes):
        state.open(number)
    children = []
    for number in range(processes):
        pid = os.fork()
        if pid == 0:
            counters = state.counters(number)
            times = []
            for _ in range(CALLS):
                began = time.perf_counter()
                counters.increment(b"key", 600)
                times.append(time.perf_counter() - began)
            times.sort()
            print(
                f"  median {times[CALLS // 2] * 1e6:.1f} us, 99 % {times[CALLS * 99 // 100] * 1e6:.1f} us", flush=True
            )
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    print(f"  {state.counters(0).count(b'key')} of {processes * CALLS} counted")


if __name__ == "__main__":
    for workers in WORKERS:
        alone(workers)
    together()
