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
        "take, one key": measure(lambda _: counters.take(b"key", 10**9, 600)),
        "take, 10,000 keys": measure(lambda at: counters.take(keys[at % 10_000], 10**9, 600)),
        "take, a new key": measure(lambda _: counters.take(b"new %d" % next(fresh), 9, 600), 1_000),
        "slide": measure(lambda at: counters.slide(b"slides", 10**9, 600, at / 1e3)),
        "pour": measure(lambda _: counters.pour(b"poured", 1e9, 10)),
        "hold and let go": measure(lambda _: counters.let_go(counters.hold(b"held")[1])),
        "put": measure(lambda at: state.notes.put(keys[at % 1000], b"x" * 60, 600)),
        "get": measure(lambda at: state.notes.get(keys[at % 1000])),
    }
    print(f"{workers} workers: " + ", ".join(f"{name} {micros:.1f} us" for name, micros in figures.items()))


def together(processes: int = 4) -> None:
    """Several processes count one key."""
    state = SharedState()
    for number in range(processes):
        state.open(number)
    read, write = os.pipe()
    children = []
    for number in range(processes):
        pid = os.fork()
        if pid == 0:
            counters = state.counters(number)
            times, taken = [], 0
            for _ in range(CALLS):
                began = time.perf_counter()
                left, _ = counters.take(b"key", CALLS, 600, patient=False)
                times.append(time.perf_counter() - began)
                taken += left >= 0
            times.sort()
            middle, late = times[CALLS // 2] * 1e6, times[CALLS * 99 // 100] * 1e6
            print(f"  median {middle:.1f} us, 99 % {late:.1f} us", flush=True)
            os.write(write, b"%d\n" % taken)
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read) as told:
        print(f"  {sum(map(int, told))} of {CALLS} taken, {processes * CALLS} asked for")


if __name__ == "__main__":
    for workers in WORKERS:
        alone(workers)
    together()
