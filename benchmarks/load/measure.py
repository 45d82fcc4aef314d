"""What one run of wrk says, and what it cost the proxy.

Parsing is pure; ``read_cpu_time`` and ``process_tree`` read /proc. CPU time comes from two files, because
neither is enough: ``schedstat`` counts nanoseconds but does not tell user from system, ``stat`` tells them
apart but counts ticks of 10 ms (and on most kernels samples them). So the total is schedstat's, and stat's
proportion splits it.
"""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([\d.]+)(us|ms|s|m|h)")
_TOTAL = re.compile(r"^\s*(\d+) requests in ([\d.]+(?:us|ms|s|m|h)),", re.MULTILINE)
_PERCENTILE = re.compile(r"^\s*(\d+)%\s+([\d.]+(?:us|ms|s|m|h))\s*$", re.MULTILINE)
_STATUS_ERRORS = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_SOCKET_ERRORS = re.compile(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)")


class WrkOutputError(Exception):
    """wrk's output has not the expected form, usually because wrk could not connect."""


@dataclass(frozen=True, slots=True)
class WrkResult:
    """The result of one run of ``wrk --latency``; durations in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    status_errors: int
    socket_errors: int

    @property
    def requests_per_second(self) -> float:
        """The throughput of the run."""
        return self.requests / self.seconds


def parse_duration(text: str) -> float:
    """Return the seconds of one of wrk's durations, such as ``1.25ms``."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise WrkOutputError(f"not a duration: {text!r}")
    return float(match[1]) * _UNITS[match[2]]


def parse_wrk(output: str) -> WrkResult:
    """Read the output of ``wrk --latency``."""
    total = _TOTAL.search(output)
    percentiles = {int(match[1]): parse_duration(match[2]) for match in _PERCENTILE.finditer(output)}
    if total is None or not {50, 99} <= percentiles.keys():
        raise WrkOutputError(f"not the output of wrk --latency: {output.strip()!r}")
    status_errors = _STATUS_ERRORS.search(output)
    socket_errors = _SOCKET_ERRORS.search(output)
    return WrkResult(
        requests=int(total[1]),
        seconds=parse_duration(total[2]),
        p50=percentiles[50],
        p99=percentiles[99],
        status_errors=int(status_errors[1]) if status_errors else 0,
        socket_errors=sum(map(int, socket_errors.groups())) if socket_errors else 0,
    )


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU time that processes have used: ``total`` in nanoseconds, ``user`` and ``system`` in clock ticks."""

    total: int
    user: int
    system: int

    def __add__(self, other: "CpuTime") -> "CpuTime":
        return CpuTime(self.total + other.total, self.user + other.user, self.system + other.system)

    def __sub__(self, other: "CpuTime") -> "CpuTime":
        return CpuTime(self.total - other.total, self.user - other.user, self.system - other.system)


@dataclass(frozen=True, slots=True)
class CpuCost:
    """CPU time per request in microseconds, and ``busy``, the share of the run that the CPU was used."""

    total: float
    user: float
    system: float
    busy: float


def parse_task(stat: str, schedstat: str) -> CpuTime:
    """Read one thread's ``stat`` and ``schedstat`` (proc(5)).

    The name in ``stat`` may hold spaces and parentheses, so the fields are counted after the last one.
    """
    fields = stat[stat.rindex(")") + 2 :].split()
    return CpuTime(total=int(schedstat.split()[0]), user=int(fields[11]), system=int(fields[12]))


def cost_per_request(used: CpuTime, requests: int, seconds: float) -> CpuCost:
    """Divide the CPU time of a run among its requests."""
    total = used.total / 1000 / max(requests, 1)
    ticks = used.user + used.system
    share = used.user / ticks if ticks else 0.0
    return CpuCost(total, total * share, total * (1 - share), busy=used.total / 1e9 / seconds)


def read_cpu_time(pids: Iterable[int]) -> CpuTime:
    """Return the CPU time of all threads of the processes so far."""
    used = CpuTime(0, 0, 0)
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            used += parse_task((task / "stat").read_text(), (task / "schedstat").read_text())
    return used


def children(pid: int) -> list[int]:
    """Return the direct children of a process."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def process_tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    return [pid] + [found for child in children(pid) for found in process_tree(child)]


class Stopwatch:
    """CPU and wall-clock time of some processes between its making and ``stop``."""

    def __init__(self, pids: list[int]) -> None:
        """Start to count."""
        self._pids = pids
        self._used = read_cpu_time(pids)
        self._started = time.monotonic()

    def stop(self) -> tuple[CpuTime, float]:
        """Return the CPU time used and the seconds passed since the start."""
        return read_cpu_time(self._pids) - self._used, time.monotonic() - self._started
