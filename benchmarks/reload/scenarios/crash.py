"""Workers are killed, one every half a second: who notices?"""

import os
import random
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reload import judge
from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import Rig, complains, rig, wait_for
from benchmarks.reload.scenarios.driving import WARM_UP, everybody
from benchmarks.reload.tally import Client, Failure, Summary

PAUSE = 0.5  # seconds between two kills
NOTICED = 2.0  # seconds within which a client has noticed that its connection is gone
MOST = 2.0  # times the latency of the undisturbed run
READY = re.compile(r" (\d+)#propylon\.worker: worker \d+ of generation \d+ is ready ")
LISTENING = "0A"
_ROW = re.compile(r"^ *\d+: \w+:(\w{4}) \w+:(\w{4}) (\w\w) .*? +\d+ +\d+ (\d+) ", re.MULTILINE)


@dataclass(frozen=True)
class Kill:
    """A worker's death."""

    at: float
    ports: frozenset[int]  # of the clients whose connections it had accepted


def run(
    directory: Path,
    limits: Limits,
    workers: int = 4,
    undisturbed: float = 10.0,
    share: float = 1.0,
    transfer: tuple[float, float] = (2.0, 4.0),
) -> Outcome:
    """Kill a random worker every half a second, after so many seconds without."""
    with rig(directory, worker_processes=workers) as running:
        group = everybody(running.gateway.port, transfer, share)
        running.load.start(group)
        time.sleep(WARM_UP)
        running.load.mark()
        time.sleep(undisturbed)
        before = running.load.mark()
        begun = time.monotonic()
        kills: list[Kill] = []
        deserted = 0.0
        while len(kills) < limits.rounds and time.monotonic() - begun < limits.seconds:
            time.sleep(max(0.0, begun + PAUSE * len(kills) - time.monotonic()))
            waiting = time.monotonic()
            wait_for(lambda: _ready(running), "a worker is ready")
            deserted += time.monotonic() - waiting
            kills.append(_kill(running, random.choice(_ready(running))))
        time.sleep(PAUSE)
        seconds = time.monotonic() - begun
        during = running.load.mark()
        running.load.stop(group.name)
        after = running.load.mark()
        complaints = judge.failures(before.failures, " before the first kill")
        complaints += complains(lambda: len(running.gateway.workers()) == workers, "all workers are back")
    failures = [*during.failures, *after.failures]
    complaints += judge.failures(unexplained(failures, kills), " not on a worker that was killed")
    if any(closing.code not in judge.DEADLINE_CODES for closing in during.closings):
        complaints.append("a WebSocket was closed with another code than 1001 or 1012")
    figures = {
        "failed_on_killed_workers": len(failures) - len(unexplained(failures, kills)),
        "connections_on_killed_workers": sum(len(kill.ports) for kill in kills),
        "seconds_without_a_worker": deserted,
        "undisturbed_p99_ms": _p99(before),
        "p99_ms": _p99(during),
    }
    return Outcome(during, complaints, len(kills), seconds, figures)


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
    # Stopped first, so that it accepts nobody behind our back.
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: _state(pid) == "T", f"worker {pid} has stopped")
    sockets = _sockets(pid)
    ports = accepted(Path("/proc/net/tcp").read_text(), running.gateway.port, sockets)
    at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: pid not in running.gateway.workers(), f"worker {pid} has died")
    return Kill(at, frozenset(ports))


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _sockets(pid: int) -> set[str]:
    links = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def accepted(table: str, port: int, inodes: set[str]) -> list[int]:
    """Return the clients' ports of those connections to a port that are among these sockets.

    ``table`` is /proc/net/tcp; a connection that has not been accepted has no inode in it.
    """
    local = f"{port:04X}"
    rows = _ROW.finditer(table)
    return [int(row[2], 16) for row in rows if row[1] == local and row[3] != LISTENING and row[4] in inodes]


def _p99(summary: Summary) -> dict[Client, float]:
    kinds = (Client.NEW, Client.KEPT)
    latencies = {kind: summary.clients[kind].latency for kind in kinds if kind in summary.clients}
    return {kind: latency.p99 for kind, latency in latencies.items() if latency is not None}
