"""How long does it take from a change that etcd has acknowledged until every worker serves by it?

``measure`` makes one change after the other, ``measure_under_load`` so many a second while wrk keeps the workers
busy and there are many routes. Each change puts a new route. One connection is held to each worker, and as soon as
etcd has answered the put, all of them are asked for the new route, over and over, until each has said 200. The
kernel chooses the worker of a connection, so connections are opened until there is one to each; which worker has one
is read from /proc: the socket on the worker's side has an inode, and the worker has a descriptor of that inode.
"""

import contextlib
import os
import queue
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.load.measure import parse_wrk
from benchmarks.load.run import wrk_command
from benchmarks.load.scenarios import Scenario, Setup
from benchmarks.load.sides import Propylon, SideError, Surroundings, running
from conf.demo.embedded_etcd import Gateway

_WORKERS = 2
_LOADED_ROUTES = 10_000
_WRITES_PER_SECOND = 50
_LOAD_CONNECTIONS = 64

# Between two questions to the workers. Without it the one who asks takes the time of those who shall answer.
_PAUSE = 0.0002


class WorkerConnection:
    """One kept-alive connection to a gateway, over which one GET at a time is sent."""

    def __init__(self, port: int) -> None:
        """Connect to the gateway."""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def local_port(self) -> int:
        """The port of this end."""
        port: int = self.socket.getsockname()[1]
        return port

    def get(self, path: str) -> int:
        """Ask once and return the status."""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + content_length(data[:end]):
            received = self.socket.recv(65536)
            if not received:
                raise SideError(f"a worker closed the connection on GET {path}")
            data += received
        return int(data[9:12])

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def content_length(head: bytes) -> int:
    """Return the Content-Length of a response head; the answers here are never chunked."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise SideError(f"no content-length in {head!r}")


def find_inode(table: str, server_port: int, client_port: int) -> str | None:
    """Return the inode of the server's end of a connection, from the text of /proc/net/tcp."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{server_port:04X}") and fields[2].endswith(f":{client_port:04X}"):
            return fields[9]
    return None


def owner(pids: list[int], inode: str) -> int | None:
    """Return which of the processes has the socket with this inode open."""
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(descriptor) == f"socket:[{inode}]":
                    return pid
    return None


def connect_to_each(port: int, pids: list[int], attempts: int = 500) -> dict[int, WorkerConnection]:
    """Return a connection to each of the workers.

    Raises:
        SideError: after ``attempts`` connections some worker has none.
    """
    found: dict[int, WorkerConnection] = {}
    for _ in range(attempts):
        connection = WorkerConnection(port)
        # A socket has no inode before it is accepted, and it is accepted when it has been answered.
        connection.get("/")
        inode = find_inode(Path("/proc/net/tcp").read_text(), port, connection.local_port)
        pid = owner(pids, inode) if inode else None
        if pid is None or pid in found:
            connection.close()
        else:
            found[pid] = connection
        if len(found) == len(pids):
            return found
    for connection in found.values():
        connection.close()
    raise SideError(f"only {len(found)} of {len(pids)} workers accepted one of {attempts} connections")


def measure(around: Surroundings, changes: int) -> dict[str, Any]:
    """Time some changes: milliseconds from the acknowledgement to the last worker's first 200."""
    side = Propylon(Setup(workers=_WORKERS, routes=10), around)
    gateway = Gateway(around.etcd_url)
    with running(side), contextlib.ExitStack() as stack:
        stack.callback(gateway.close)
        connections = connect_to_each(side.port, side.workers)
        for connection in connections.values():
            stack.callback(connection.close)
        times = [
            _time_one(side, gateway, list(connections.values()), f"/propagation/{number}/") for number in range(changes)
        ]
    percentiles = quantiles(times, n=100, method="inclusive")
    return {
        "workers": _WORKERS,
        "changes": changes,
        "p50_ms": percentiles[49],
        "p99_ms": percentiles[98],
        "max_ms": max(times),
        "times_ms": [round(value, 3) for value in times],
    }


def _time_one(side: Propylon, gateway: Gateway, connections: list[WorkerConnection], prefix: str) -> float:
    gateway.put(side.route_key(prefix.strip("/").replace("/", "-")), side.route(prefix))
    acknowledged = time.perf_counter()
    waiting = list(connections)
    while True:
        waiting = [connection for connection in waiting if connection.get(f"{prefix}item") != 200]
        passed = time.perf_counter() - acknowledged
        if not waiting:
            return passed * 1000
        if passed > 10.0:
            raise SideError(f"{len(waiting)} workers do not serve {prefix} 10 s after it was put")
        time.sleep(_PAUSE)


@dataclass(frozen=True)
class _Change:
    """A new route that etcd has acknowledged."""

    path: str
    acknowledged: float


class _Observer(threading.Thread):
    """Asks one worker for each new route until it serves it."""

    def __init__(self, connection: WorkerConnection) -> None:
        super().__init__()
        self.changes: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self.times: list[float] = []
        self._connection = connection

    def run(self) -> None:
        while (change := self.changes.get()) is not None:
            while self._connection.get(change.path) != 200:
                if time.perf_counter() - change.acknowledged > 10.0:
                    return  # found out by the number of times
                time.sleep(_PAUSE)
            self.times.append((time.perf_counter() - change.acknowledged) * 1000)


def measure_under_load(around: Surroundings, changes: int) -> dict[str, Any]:
    """Time changes for each worker, at a steady rate, with many routes and busy workers; milliseconds."""
    setup = Setup(workers=_WORKERS, routes=_LOADED_ROUTES)
    side = Propylon(setup, around)
    gateway = Gateway(around.etcd_url)
    scenario = Scenario("load", "load", path=setup.check_path, connections=_LOAD_CONNECTIONS, setup=setup)
    with running(side), contextlib.ExitStack() as stack:
        stack.callback(gateway.close)
        observers = {pid: _Observer(connection) for pid, connection in connect_to_each(side.port, side.workers).items()}
        command = wrk_command(scenario, side.port, changes // _WRITES_PER_SECOND + 2, around.directory)
        load = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for observer in observers.values():
            observer.start()
        try:
            time.sleep(1.0)  # wrk has begun
            _write_steadily(side, gateway, changes, list(observers.values()))
        finally:
            for observer in observers.values():
                observer.changes.put(None)
                observer.join()
            output, _ = load.communicate()
    if any(len(observer.times) < changes for observer in observers.values()):
        raise SideError("a worker did not serve a change within 10 s")
    result = parse_wrk(output)
    return {
        "routes": _LOADED_ROUTES,
        "changes": changes,
        "writes_per_second": _WRITES_PER_SECOND,
        "requests_per_second": round(result.requests_per_second),
        "errors": result.status_errors + result.socket_errors,
        "workers": [_percentiles(observer.times) for observer in observers.values()],
    }


def _write_steadily(side: Propylon, gateway: Gateway, changes: int, observers: list[_Observer]) -> None:
    due = time.perf_counter()
    for number in range(changes):
        time.sleep(max(0.0, due - time.perf_counter()))
        due += 1 / _WRITES_PER_SECOND
        prefix = f"/under-load/{number}/"
        gateway.put(side.route_key(f"under-load-{number}"), side.route(prefix))
        change = _Change(f"{prefix}item", time.perf_counter())
        for observer in observers:
            observer.changes.put(change)


def _percentiles(times: list[float]) -> dict[str, float]:
    percentiles = quantiles(times, n=100, method="inclusive")
    return {"p50_ms": round(percentiles[49], 2), "p99_ms": round(percentiles[98], 2), "max_ms": round(max(times), 2)}


def describe(result: dict[str, Any]) -> str:
    """Return the result as a sentence."""
    return (
        f"propagation: from the acknowledged put to the first 200 on all {result['workers']} workers: "
        f"p50 {result['p50_ms']:.2f} ms, p99 {result['p99_ms']:.2f} ms, max {result['max_ms']:.2f} ms "
        f"({result['changes']} changes)"
    )


def describe_under_load(result: dict[str, Any]) -> str:
    """Return the result as a sentence."""
    workers = "; ".join(
        f"p50 {worker['p50_ms']:.1f} ms, p99 {worker['p99_ms']:.1f} ms, max {worker['max_ms']:.1f} ms"
        for worker in result["workers"]
    )
    return (
        f"propagation at {result['writes_per_second']} writes/s with {result['routes']:,} routes under"
        f" {result['requests_per_second']} requests/s, each worker: {workers} ({result['changes']} changes)"
    )
