"""Threads that write transactions at a steady rate, whatever happens to the members."""

import random
import threading
import time

from benchmarks.sync.groups import Groups, operations
from tests.fakes.cluster import CallError, Cluster, text

_THREADS = 4


class Writers:
    """A context manager: they write as long as it is entered."""

    def __init__(self, cluster: Cluster, groups: Groups, per_second: float, seed: int) -> None:
        self.acknowledged = 0
        self.unknown = 0  # nobody has answered: it may have been applied or not
        self.seconds = 0.0
        self._cluster = cluster
        self._groups = groups
        self._interval = _THREADS / per_second
        self._stop = threading.Event()
        self._count = threading.Lock()
        self._threads = [
            threading.Thread(target=self._write, args=(random.Random(seed + number),), name=f"writer {number}")
            for number in range(_THREADS)
        ]

    def __enter__(self) -> "Writers":
        self._started = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self.seconds = time.monotonic() - self._started

    def _write(self, chance: random.Random) -> None:
        caller = self._cluster.caller()
        due = time.monotonic() + chance.random() * self._interval
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            # After an outage the rate is kept, and what was not written is not made up for.
            due = max(due + self._interval, time.monotonic() - 1.0)
            write = self._groups.write(chance)
            try:
                caller.call("kv/txn", {"success": operations(write, text)})
            except CallError:
                with self._count:
                    self.unknown += 1
            else:
                with self._count:
                    self.acknowledged += 1
        caller.close()
