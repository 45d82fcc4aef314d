"""A probe in each worker: how long was the event loop blocked, and what did one applied change take?

``python -m benchmarks.sync.probe DIRECTORY PORT -- ARGUMENTS`` is ``master.py ARGUMENTS`` with workers that leave
a file ``DIRECTORY/<pid>.probe``. Workers run unchanged but for three things: a timer ticks every millisecond, the
loop notes when it begins to accept on PORT, and ``ConfigStore.apply`` is timed.

A gap between two ticks is longer than a millisecond when something has blocked the loop, or when the kernel has
given the core to another process. The CPU time that the thread used in the gap tells the two apart.
"""

import asyncio
import mmap
import os
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

import master
from config_sync.cache import ConfigStore, Event

TICK = 0.001  # seconds
_HEAD = struct.Struct(
    "=qqddddq"
)  # round, round of the figures, longest gap, its CPU, longest CPU, born to ready, applies
_ROOM = 8_192  # durations of the last applies
_SIZE = _HEAD.size + 8 * _ROOM


@dataclass(frozen=True)
class Figures:
    """What one worker has measured since the last reset; durations in seconds."""

    gap: float  # the longest between two ticks, less the tick
    gap_cpu: float  # of the CPU time that was used in it
    cpu: float  # the most CPU time that was used between two ticks
    born_to_ready: float
    applies: list[float]


class Probe:
    """The worker's side."""

    def __init__(self, directory: Path, born: float) -> None:
        path = directory / f"{os.getpid()}.probe"
        path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _SIZE)
        self._durations = memoryview(self._memory)[_HEAD.size :].cast("d")
        self._born = born
        self._round = 0
        self._gap = self._gap_cpu = self._cpu = self._born_to_ready = 0.0
        self._applies = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._at = 0.0
        self._used = 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to tick."""
        self._loop = loop
        self._at, self._used = time.perf_counter(), time.thread_time()
        loop.call_soon(self._tick)

    def ready(self) -> None:
        """Note that the worker accepts."""
        self._born_to_ready = time.monotonic() - self._born

    def applied(self, seconds: float) -> None:
        """Note what an apply took."""
        self._durations[self._applies % _ROOM] = seconds
        self._applies += 1

    def _tick(self) -> None:
        assert self._loop is not None
        at, used = time.perf_counter(), time.thread_time()
        gap, cpu = at - self._at - TICK, used - self._used
        if gap > self._gap:
            self._gap, self._gap_cpu = gap, cpu
        self._cpu = max(self._cpu, cpu)
        asked = _HEAD.unpack_from(self._memory)[0]
        if asked != self._round:
            self._round = asked
            self._gap = self._gap_cpu = self._cpu = 0.0
            self._applies = 0
        _HEAD.pack_into(
            self._memory,
            0,
            asked,
            self._round,
            self._gap,
            self._gap_cpu,
            self._cpu,
            self._born_to_ready,
            self._applies,
        )
        self._at, self._used = at, used
        self._loop.call_later(TICK, self._tick)


def reset(directory: Path, pids: Sequence[int], patience: float = 5.0) -> None:
    """Let the workers begin anew, and wait until they have."""
    for pid in pids:
        with (directory / f"{pid}.probe").open("r+b") as file, mmap.mmap(file.fileno(), _SIZE) as memory:
            head = list(_HEAD.unpack_from(memory))
            struct.pack_into("=q", memory, 0, head[0] + 1)
            until = time.monotonic() + patience
            while _HEAD.unpack_from(memory)[1] != head[0] + 1:
                if time.monotonic() > until:
                    raise TimeoutError(f"worker {pid} does not tick")
                time.sleep(TICK)


def read(directory: Path, pid: int) -> Figures:
    """Read what a worker has measured."""
    data = (directory / f"{pid}.probe").read_bytes()
    _, _, gap, gap_cpu, cpu, born_to_ready, applies = _HEAD.unpack_from(data)
    durations = struct.unpack_from(f"={min(applies, _ROOM)}d", data, _HEAD.size)
    return Figures(gap, gap_cpu, cpu, born_to_ready, list(durations))


def _install(directory: Path, port: int) -> None:
    """Put the probe into every worker that is forked from now on."""
    probe: Probe | None = None
    born = 0.0

    def after_fork() -> None:
        nonlocal born
        born = time.monotonic()

    class ProbedLoop(uvloop.Loop):
        async def create_server(self, *arguments: Any, **options: Any) -> Any:
            server = await super().create_server(*arguments, **options)
            sock = options.get("sock")
            if probe is not None and sock is not None and sock.getsockname()[1] == port:
                probe.ready()
            return server

    def new_event_loop() -> asyncio.AbstractEventLoop:
        nonlocal probe
        loop: asyncio.AbstractEventLoop = ProbedLoop()
        probe = Probe(directory, born)
        probe.start(loop)
        return loop

    plain = ConfigStore.apply

    def timed_apply(self: ConfigStore, events: Sequence[Event], revision: int) -> None:
        started = time.perf_counter()
        plain(self, events, revision)
        if events and probe is not None:
            probe.applied(time.perf_counter() - started)

    os.register_at_fork(after_in_child=after_fork)
    uvloop.new_event_loop = new_event_loop  # type: ignore[assignment]
    ConfigStore.apply = timed_apply  # type: ignore[method-assign]


if __name__ == "__main__":
    _install(Path(sys.argv[1]), int(sys.argv[2]))
    sys.exit(master.main(sys.argv[4:]))
