"""What health checks cost: a request, a worker's timer, and the prober with many targets.

    python -m benchmarks.bench_health [--targets 1000]

Times of calls are the best of several runs in one process. The prober then probes servers in another process, every
second, on loopback; what it costs is the processor time of this process, and the longest time its loop did not run.
"""

import argparse
import asyncio
import mmap
import os
import resource
import time
import timeit
from collections.abc import Callable, Collection, Sequence
from typing import cast

import msgspec
import uvloop

from config_sync import schema
from worker.exchange import Exchange
from worker.upstream.balancers.interface import Leaf
from worker.upstream.health.lease import Lease
from worker.upstream.health.machine import State, Status
from worker.upstream.health.prober import Prober
from worker.upstream.health.registry import CheckRegistry
from worker.upstream.health.table import HealthTable
from worker.upstream.peer import Peer, Upstream
from worker.upstream.pool import Pool, PoolKey

CHECKS: dict[str, object] = {"active": {}, "passive": {}}
PER_UPSTREAM = 4
SECONDS = 10
LOOP_CHECK = 0.001  # seconds between two looks at how late the loop is


class Deaf:
    """A balancer that balances nothing."""

    def next(self, exchange: Exchange, tried: Collection[Peer] = ()) -> Peer | None:
        """Return nobody."""

    def peek(self, exchange: Exchange) -> Peer | None:
        """Return nobody."""

    def leaves(self) -> Sequence[Leaf]:
        """Return none."""
        return ()

    def set_unhealthy(self, peers: Collection[Peer]) -> None:
        """Ignore it."""


class NoLock:
    """A lock for one process."""

    def take(self) -> bool:
        """Have it."""
        return True

    def release(self) -> None:
        """Give it back."""


def use(registry: CheckRegistry, name: str, addresses: list[tuple[str, int]]) -> Upstream:
    """Make an upstream with health checks."""
    peers = [Peer(host, port, 1, 0, Pool(PoolKey("http", host, port, 1, 60.0, 1000))) for host, port in addresses]
    upstream = Upstream(name, peers, Deaf(), None, 0.0, None, "pass", None)
    registry.use(f"upstreams/{name}", msgspec.convert({"checks": CHECKS}, schema.Upstream), upstream)
    return upstream


def best(call: Callable[[], object], number: int, repeat: int = 7) -> float:
    """Return the seconds that a call takes."""
    return min(timeit.repeat(call, number=number, repeat=repeat)) / number


def show(what: str, seconds: float) -> None:
    """Print a line."""
    print(f"{what:58} {seconds * 1e6:10.3f} us")


def measure_requests() -> None:
    """Measure what a request pays."""
    table = HealthTable(1)
    registry = CheckRegistry(table)
    upstream = use(registry, "1", [("10.0.0.1", 80), ("10.0.0.2", 80)])
    plain = Upstream("2", upstream.peers, Deaf(), None, 0.0, None, "pass", None)
    peer, passive = upstream.peers[0], upstream.passive
    assert passive is not None
    for target in registry.targets.values():
        table.insert(target.key)
    registry.refresh()

    def unchecked() -> None:
        if plain.passive is not None:
            plain.passive.answered(peer, 200)

    show("an empty call, for comparison", best(lambda: None, 200_000))
    show("no checks: the attribute test, in a call", best(unchecked, 200_000))
    show("a success of a healthy target", best(lambda: passive.answered(peer, 200), 200_000))
    show("a status that does not count", best(lambda: passive.answered(peer, 404), 200_000))
    show("a failure, merged into a run", best(lambda: passive.answered(peer, 503), 200_000))
    other = upstream.peers[1]

    def alternately() -> None:
        passive.answered(peer, 503)
        passive.answered(other, 503)

    show("a failure that begins a run", best(alternately, 100_000) / 2)
    show("the timer, when nothing has changed", best(registry.refresh, 100_000))


def measure_changes(count: int) -> None:
    """Measure what changes of many targets cost a worker."""
    table = HealthTable(1)
    registry = CheckRegistry(table)
    nodes = range(PER_UPSTREAM)
    names = [[(f"10.{at >> 8}.{at & 255}.{node}", 80) for node in nodes] for at in range(count // PER_UPSTREAM)]
    began = time.perf_counter()
    for at, addresses in enumerate(names):
        use(registry, str(at), addresses)
    show(f"building: a target ({count} in all)", (time.perf_counter() - began) / count)
    slots = [table.insert(target.key) for target in registry.targets.values()]
    while registry.refresh():
        pass
    for slot in slots[:1000]:
        table.write(slot, Status(State.UNHEALTHY))
    began = time.perf_counter()
    while registry.refresh():
        pass
    show("taking over a change of state (1000 at once)", (time.perf_counter() - began) / 1000)
    show("a prober's look at the whole table, when it takes over", best(table.occupied, 20))


class Answering(asyncio.Protocol):
    """Answers one request; ``answered`` counts them for both processes."""

    answered = memoryview(mmap.mmap(-1, 8)).cast("q")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self.answered[0] += 1
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self._transport.close()


async def serve(write: int) -> None:
    """Be the servers."""
    server = await asyncio.get_running_loop().create_server(Answering, "0.0.0.0", 0, backlog=4096)
    os.write(write, server.sockets[0].getsockname()[1].to_bytes(2, "big"))
    await server.serve_forever()


def cpu() -> float:
    """Return the processor time of this process in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure_prober(count: int, port: int) -> None:
    """Measure probes of many targets, each once a second."""
    loop = asyncio.get_running_loop()
    table = HealthTable(1)
    registry = CheckRegistry(table)
    for at in range(count // PER_UPSTREAM):
        use(
            registry, str(at), [(f"127.0.{at >> 6 & 255}.{(at & 63) * 4 + node}", port) for node in range(PER_UPSTREAM)]
        )
    lease = Lease(table, 0, NoLock())
    lease.keep(time.monotonic_ns())
    prober = Prober(registry, lease, lambda: 1, loop)
    stalls: list[float] = []
    ticks: list[float] = []

    def watch(before: float) -> None:
        now = loop.time()
        stalls.append(now - before - LOOP_CHECK)
        loop.call_later(LOOP_CHECK, watch, now)

    def tick() -> None:
        lease.keep(time.monotonic_ns())
        began = time.process_time()
        prober.tick(loop.time())
        ticks.append(time.process_time() - began)
        while registry.refresh():
            pass
        loop.call_later(0.1, tick)

    tick()
    await asyncio.sleep(3 + count / 2000)
    stalls.clear()
    ticks.clear()
    watch(loop.time())
    before, answered = cpu(), Answering.answered[0]
    await asyncio.sleep(SECONDS)
    used, answered = cpu() - before, Answering.answered[0] - answered
    prober.stop()
    stalls.sort()
    usable = sum(target.state.is_usable for target in registry.targets.values())
    print(f"probes: {count} targets, {usable} usable, {answered / SECONDS:.0f} probes a second,", end=" ")
    print(f"{used / SECONDS * 100:.0f} % of a processor, {used / answered * 1e6:.0f} us a probe;", end=" ")
    print(f"a tick takes at most {max(ticks) * 1e3:.1f} ms of it;", end=" ")
    print(f"loop late by {stalls[len(stalls) // 2] * 1e3:.2f} ms median,", end=" ")
    print(f"{stalls[int(len(stalls) * 0.99)] * 1e3:.2f} ms p99, {stalls[-1] * 1e3:.2f} ms most")


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--targets", type=int, default=1000)
    options = parser.parse_args()
    measure_requests()
    measure_changes(options.targets)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            uvloop.run(serve(write))
        finally:
            os._exit(0)
    try:
        port = int.from_bytes(os.read(read, 2), "big")
        uvloop.run(measure_prober(options.targets, port))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
