"""Workers are killed, one every half a second: who notices?"""

import ctypes
import errno
import os
import random
import re
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.reload import judge
from benchmarks.reload.clients import Group
from benchmarks.reload.load import Load
from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import Rig, complains, rig, wait_for
from benchmarks.reload.scenarios.driving import TRANSFER, WARM_UP, everybody
from benchmarks.reload.tally import Client, Failure, Summary

PAUSE = 0.5  # seconds between two kills
PARTS = 4  # of the clients: so many of them lose their connections by a kill, as a rule
NOTICED = 2.0  # seconds within which a client has noticed that its connection is gone
MOST = 2.0  # times the latency of the undisturbed run
PIDFD_GETFD = 438  # the number of the system call, which Python has no function for
READY = re.compile(r" (\d+)#propylon\.worker: worker \d+ of generation \d+ is ready ")

_system = ctypes.CDLL(None).syscall


@dataclass(frozen=True)
class Kill:
    """A worker's death."""

    at: float
    stopped: float  # for how many seconds before
    ports: frozenset[int]  # of the clients whose connections it had accepted


def run(
    directory: Path,
    limits: Limits,
    workers: int = 4,
    undisturbed: float = 10.0,
    share: float = 1.0,
    transfer: tuple[float, float] = TRANSFER,
) -> Outcome:
    """Kill a random worker every half a second, after so many seconds without.

    Between the two, as long, a quarter of the clients leaves every half a second, and comes back: what that costs the
    others is not the gateway's doing.
    """
    with rig(directory, worker_processes=workers) as running, Load() as other:
        whole = everybody(running.gateway.port, transfer, share / PARTS)
        parts = [msgspec.structs.replace(whole, name=f"part {number}") for number in range(PARTS)]
        loads = Loads(running.load, other)
        for part in parts:
            loads.start(part)
        time.sleep(WARM_UP)
        loads.mark()
        time.sleep(undisturbed)
        before = loads.mark()
        for number in range(int(undisturbed / PAUSE)):
            time.sleep(PAUSE)
            loads.abandon(parts[number % PARTS])
            loads.start(parts[number % PARTS])
        returning = loads.mark()
        begun = time.monotonic()
        kills: list[Kill] = []
        deserted = 0.0
        while len(kills) < limits.rounds and time.monotonic() - begun < limits.seconds:
            time.sleep(max(0.0, (kills[-1].at if kills else begun) + PAUSE - time.monotonic()))
            waiting = time.monotonic()
            wait_for(lambda: _ready(running), "a worker is ready")
            deserted += time.monotonic() - waiting
            kills.append(_kill(running, random.choice(_ready(running))))
        time.sleep(PAUSE)
        seconds = time.monotonic() - begun
        during = loads.mark()
        for part in parts:
            loads.stop(part)
        after = loads.mark()
        complaints = judge.failures([*before.failures, *returning.failures], " before the first kill")
        complaints += complains(lambda: len(running.gateway.workers()) == workers, "all workers are back")
    failures = [*during.failures, *after.failures]
    complaints += judge.failures(unexplained(failures, kills), " not on a worker that was killed")
    if any(closing.code not in judge.DEADLINE_CODES for closing in during.closings):
        complaints.append("a WebSocket was closed with another code than 1001 or 1012")
    figures = {
        "failed_on_killed_workers": len(failures) - len(unexplained(failures, kills)),
        "connections_on_killed_workers": sum(len(kill.ports) for kill in kills),
        "seconds_without_a_worker": deserted,
        "stopped_before_ms": {"median": _milliseconds(kills, 0.5), "most": _milliseconds(kills, 1.0)},
        "undisturbed_p99_ms": _p99(before),
        "returning_p99_ms": _p99(returning),
        "p99_ms": _p99(during),
    }
    return Outcome(during, complaints, len(kills), seconds, figures)


class Loads:
    """Two processes: what those measure who come back at once must not be the work of those who lose much."""

    def __init__(self, quick: Load, slow: Load) -> None:
        self._quick = quick
        self._slow = slow

    def start(self, group: Group) -> None:
        """Start the clients of a group, those that ask for little in a process of their own."""
        self._slow.start(msgspec.structs.replace(group, new=0, kept=0))
        self._quick.start(msgspec.structs.replace(group, websockets=0, uploads=0, downloads=0))

    def stop(self, group: Group) -> None:
        """Let them finish."""
        self._quick.stop(group.name)
        self._slow.stop(group.name)

    def abandon(self, group: Group) -> None:
        """Let them leave at once."""
        self._quick.abandon(group.name)
        self._slow.abandon(group.name)

    def mark(self) -> Summary:
        """Return what all of them have seen since the last mark."""
        return self._quick.mark().beside(self._slow.mark())


def slower(outcome: Outcome) -> list[str]:
    """Complain of a p99 beyond ``MOST`` times that of the undisturbed run; only of use on a quiet machine."""
    undisturbed, disturbed = outcome.figures["undisturbed_p99_ms"], outcome.figures["p99_ms"]
    return [
        f"p99 of {client}: {disturbed[client]} ms, undisturbed {undisturbed[client]} ms"
        for client in undisturbed
        if disturbed[client] > MOST * undisturbed[client]
    ]


def unexplained(failures: Sequence[Failure], kills: Sequence[Kill]) -> list[Failure]:
    """Return the failures of connections that no killed worker had accepted."""
    return [failure for failure in failures if not any(_explains(kill, failure) for kill in kills)]


def _explains(kill: Kill, failure: Failure) -> bool:
    return failure.port in kill.ports and failure.opened < kill.at < failure.at < kill.at + NOTICED


def _ready(running: Rig) -> list[int]:
    """Return the workers that accept, by what they have said in the log."""
    said = {int(pid) for pid in READY.findall(running.gateway.log())}
    return sorted(said & running.gateway.workers())


def _kill(running: Rig, pid: int) -> Kill:
    # Stopped first, so that it accepts nobody behind our back; shortly, since who waits for it waits for us.
    stopped = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    while _state(pid) != "T":
        time.sleep(0.0002)
    ports = accepted(pid, running.gateway.port)
    at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pid not in running.gateway.workers(), f"worker {pid} has died")
    return Kill(at, at - stopped, ports)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def accepted(pid: int, port: int) -> frozenset[int]:
    """Return the clients' ports of the connections to a port that a process has, by copies of its sockets."""
    process = os.pidfd_open(pid)
    copies = [_system(PIDFD_GETFD, process, int(fd), 0) for fd in os.listdir(f"/proc/{pid}/fd")]
    os.close(process)
    return frozenset(filter(None, [_client(copy, port) for copy in copies if copy >= 0]))


def _client(descriptor: int, port: int) -> int:
    try:
        with socket.socket(fileno=descriptor) as sock:
            is_ours = sock.family == socket.AF_INET and sock.getsockname()[1] == port
            return int(sock.getpeername()[1]) if is_ours else 0
    except OSError as error:
        if error.errno == errno.ENOTSOCK:
            os.close(descriptor)
        return 0  # no socket, or one that listens


def _milliseconds(kills: Sequence[Kill], share: float) -> float:
    """Return for how long workers stood still before they were killed: this share of them no longer."""
    times = sorted(kill.stopped for kill in kills)
    return round(1_000 * times[min(len(times) - 1, int(share * len(times)))], 2) if times else 0.0


def _p99(summary: Summary) -> dict[Client, float]:
    kinds = (Client.NEW, Client.KEPT)
    latencies = {kind: summary.clients[kind].latency for kind in kinds if kind in summary.clients}
    return {kind: latency.p99 for kind, latency in latencies.items() if latency is not None}
