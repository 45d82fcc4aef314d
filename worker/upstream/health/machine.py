"""The state of one target, and what reports make of it (upstreams.md section 8).

            failure                limit                  success              limit
    HEALTHY ──────► MOSTLY_HEALTHY ────► UNHEALTHY ──────► MOSTLY_UNHEALTHY ────► HEALTHY

The first two are usable, the last two are not. Each kind of report has a counter: a success clears those of failures, a
failure that of successes, and the state passes between usable and not only where a counter reaches its limit. Probes
and requests move the same counters, each with limits of their own.
"""

from enum import IntEnum
from typing import NamedTuple

MAX_COUNT = 255  # counters stop here: no limit is higher than 254
UNLIMITED = 0  # a limit of 0: reports of that kind do not count


class State(IntEnum):
    """Where a target stands."""

    HEALTHY = 0
    MOSTLY_HEALTHY = 1
    UNHEALTHY = 2
    MOSTLY_UNHEALTHY = 3

    @property
    def is_usable(self) -> bool:
        """Tell whether requests may go there."""
        return self < State.UNHEALTHY


class Report(IntEnum):
    """What a probe or a request has shown."""

    SUCCESS = 0
    HTTP_FAILURE = 1
    TCP_FAILURE = 2
    TIMEOUT = 3


class Step(IntEnum):
    """A report seen with its limit."""

    SUCCESS = 0
    SUCCESSES_REACHED = 1
    FAILURE = 2
    FAILURES_REACHED = 3


# A state without a step in it ignores the report, counter and all.
TRANSITIONS: dict[State, dict[Step, State]] = {
    State.HEALTHY: {
        Step.FAILURE: State.MOSTLY_HEALTHY,
        Step.FAILURES_REACHED: State.UNHEALTHY,
    },
    State.MOSTLY_HEALTHY: {
        Step.SUCCESS: State.MOSTLY_HEALTHY,
        Step.SUCCESSES_REACHED: State.HEALTHY,
        Step.FAILURE: State.MOSTLY_HEALTHY,
        Step.FAILURES_REACHED: State.UNHEALTHY,
    },
    State.UNHEALTHY: {
        Step.SUCCESS: State.MOSTLY_UNHEALTHY,
        Step.SUCCESSES_REACHED: State.HEALTHY,
    },
    State.MOSTLY_UNHEALTHY: {
        Step.SUCCESS: State.MOSTLY_UNHEALTHY,
        Step.SUCCESSES_REACHED: State.HEALTHY,
        Step.FAILURE: State.MOSTLY_UNHEALTHY,
        Step.FAILURES_REACHED: State.UNHEALTHY,
    },
}


class Limits(NamedTuple):
    """How many reports of a kind it takes, by ``Report``; ``UNLIMITED`` for those that do not count."""

    successes: int
    http_failures: int
    tcp_failures: int
    timeouts: int


class Status(NamedTuple):
    """A target's state and counters."""

    state: State = State.HEALTHY
    success: int = 0
    http_failure: int = 0
    tcp_failure: int = 0
    timeout_failure: int = 0

    def pack(self) -> int:
        """Write it as a number below 2**34."""
        _, success, http, tcp, timeout = self
        return self.state | success << 2 | http << 10 | tcp << 18 | timeout << 26

    @classmethod
    def unpack(cls, word: int) -> "Status":
        """Read what ``pack`` has written."""
        return cls(State(word & 3), *(word >> shift & 0xFF for shift in (2, 10, 18, 26)))


NEW = Status()


def advance(status: Status, report: Report, limits: Limits) -> Status:
    """Return what a report makes of a status; the same object when it is ignored."""
    limit = limits[report]
    if limit == UNLIMITED:
        return status
    count = min(status[1 + report] + 1, MAX_COUNT)
    if report is Report.SUCCESS:
        step = Step.SUCCESSES_REACHED if count >= limit else Step.SUCCESS
    else:
        step = Step.FAILURES_REACHED if count >= limit else Step.FAILURE
    state = TRANSITIONS[status.state].get(step)
    if state is None:
        return status
    if report is Report.SUCCESS:
        return Status(state, success=count)
    counts = [0, *status[2:]]
    counts[report] = count
    return Status(state, *counts)
