"""A load of a fixed rate, whatever the answers take: what wrk, which waits for them, cannot tell of latency.

    python -m benchmarks.load.paced PORT RATE SECONDS FILE [--connections 32] [--seed 1]

FILE holds a JSON list of requests, which are sent in turn. The time between two is exponentially distributed, as of
clients that know nothing of each other, and with the same seed it is the same. A request for which no connection is
free counts from when it was to be sent, with its wait; what the client itself was late is not the gateway's, and told
beside it. The client is one thread on ``select``, which wakes more precisely than an event loop's timers of a
millisecond.
"""

import argparse
import json
import random
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PATIENCE = 10.0  # seconds for the last answers


@dataclass(frozen=True, slots=True)
class PacedResult:
    """One run: latencies in milliseconds; ``late`` is the p99 of how late the client itself was."""

    requests: int
    errors: int
    p50: float
    p90: float
    p99: float
    p999: float
    most: float
    late: float


class _Connection:
    """One connection with at most one request on its way; all answers are of one size."""

    __slots__ = ("data", "due", "size", "sock")

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.due = 0.0
        self.size = 0

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, request: bytes, due: float) -> None:
        self.due, self.data = due, b""
        self.sock.sendall(request)

    def receive(self) -> int:
        """Read; returns the status when the answer is complete, else 0.

        Raises:
            ConnectionError: the gateway has closed it.
        """
        piece = self.sock.recv(65536)
        if not piece:
            raise ConnectionError("the gateway has closed a connection")
        self.data += piece
        if not self.size:
            self.size = _size_of(self.data)
        return int(self.data[9:12]) if 0 < self.size <= len(self.data) else 0


def _size_of(data: bytes) -> int:
    """Return how long an answer is; 0 when its head is not complete."""
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end:
        return 0
    at = head.lower().index(b"content-length:") + 15
    return len(head) + 4 + int(head[at : at + 12].split(b"\r\n")[0])


class PacedLoad:
    """Sends requests when they are due over whichever connection is free."""

    def __init__(self, port: int, connections: int, requests: Sequence[bytes]) -> None:
        """Connect."""
        self._all = [_Connection(port) for _ in range(connections)]
        self._free = deque(self._all)
        self._busy: set[_Connection] = set()
        self._requests = requests
        self._latencies: list[float] = []
        self._late: list[float] = []
        self._errors = 0
        self._freed = 0.0  # when a connection was free again after none was

    def run(self, rate: float, seconds: float, seed: int) -> PacedResult:
        """Send ``rate`` requests a second; raises ConnectionError when a connection is closed."""
        chance = random.Random(seed)
        sent = 0
        begun = due = time.perf_counter()
        while True:
            now = time.perf_counter()
            while self._free and due <= now and due - begun < seconds:
                connection = self._free.popleft()
                has_waited = self._freed > due
                connection.send(self._requests[sent % len(self._requests)], due if has_waited else time.perf_counter())
                self._busy.add(connection)
                if not has_waited:
                    self._late.append(now - due)
                sent += 1
                due += chance.expovariate(rate)
            is_over = due - begun >= seconds
            if is_over and (not self._busy or now - due > PATIENCE):
                return self._result()
            wait = PATIENCE if is_over or not self._free else max(0.0, due - time.perf_counter())
            self._take(wait)

    def _take(self, wait: float) -> None:
        for ready in select.select(list(self._busy), (), (), wait)[0]:
            status = ready.receive()
            if status:
                now = time.perf_counter()
                self._latencies.append(now - ready.due)
                if not self._free:
                    self._freed = now
                self._errors += status != 200
                self._busy.discard(ready)
                self._free.append(ready)

    def _result(self) -> PacedResult:
        found = sorted(1000 * latency for latency in self._latencies)
        late = sorted(1000 * delay for delay in self._late)

        def at(share: float, values: list[float]) -> float:
            return round(values[min(len(values) - 1, int(share * len(values)))], 4)

        return PacedResult(
            len(found),
            self._errors + len(self._busy),
            p50=at(0.5, found),
            p90=at(0.9, found),
            p99=at(0.99, found),
            p999=at(0.999, found),
            most=at(1.0, found),
            late=at(0.99, late),
        )

    def close(self) -> None:
        """Close all connections."""
        for connection in self._all:
            connection.sock.close()


def main() -> None:
    """Run once and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("file", type=Path)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    requests = [text.encode() for text in json.loads(options.file.read_text())]
    load = PacedLoad(options.port, options.connections, requests)
    load.run(options.rate, 0.5, 0)  # connections to the origin are opened
    load.close()
    load = PacedLoad(options.port, options.connections, requests)
    sys.stdout.write(json.dumps(asdict(load.run(options.rate, options.seconds, options.seed))) + "\n")
    load.close()


if __name__ == "__main__":
    main()
