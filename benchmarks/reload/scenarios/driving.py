"""What the scenarios share: the load, and steps taken under it."""

import time
from collections.abc import Callable

from benchmarks.reload import judge
from benchmarks.reload.clients import Group
from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import Rig, ScenarioError, cpu_seconds

MAX_GENERATIONS = 3
SHUTDOWN_TIMEOUT = 6.0  # seconds
# Seconds that slow bodies take. A client may begin another one when the first, which began before the drain, is over:
# both are to end before the deadline.
TRANSFER = (1.0, 2.5)
WARM_UP = 1.0  # seconds of load before the first step

Step = Callable[[int], None]


def everybody(port: int, transfer: tuple[float, float] = TRANSFER, share: float = 1.0) -> Group:
    """Return all kinds of clients, or a share of them; ``transfer`` is how many seconds slow bodies take."""
    many, some, few = (max(1, round(count * share)) for count in (50, 20, 4))
    return Group(
        "everybody", port, new=few, kept=4 * few, websockets=many, uploads=some, downloads=some, transfer=transfer
    )


def settings(mode: str, workers: int, grace: float, timeout: float = SHUTDOWN_TIMEOUT) -> dict[str, object]:
    """Return the settings of a gateway whose reloads take little time."""
    return {
        "worker_processes": workers,
        "worker_shutdown_timeout": timeout,
        "max_generations": MAX_GENERATIONS,
        "reload": {"mode": mode, "grace": grace, "drain_wait": 0.2},
    }


def drive(running: Rig, limits: Limits, group: Group, step: Step, timeout: float = SHUTDOWN_TIMEOUT) -> Outcome:
    """Take steps under load until a limit is reached; a step is given its number.

    ``timeout`` is the gateway's ``worker_shutdown_timeout``.
    """
    complaints: list[str] = []
    rounds = 0
    running.load.start(group)
    time.sleep(WARM_UP)
    begun, used = time.monotonic(), cpu_seconds(running.master)
    try:
        while rounds < limits.rounds and time.monotonic() - begun < limits.seconds:
            step(rounds)
            rounds += 1
    except ScenarioError as error:
        complaints.append(str(error))
    seconds = time.monotonic() - begun
    used = cpu_seconds(running.master) - used
    running.load.stop(group.name)
    summary = running.load.mark()
    complaints += judge.failures(summary.failures)
    complaints += judge.closings(summary.closings, running.reloads, MAX_GENERATIONS, timeout)
    figures = {"seconds_per_round": seconds / max(1, rounds), "cpu_seconds_per_round": used / max(1, rounds)}
    figures["requests_that_came_too_late"] = sum(map(judge.is_late, summary.failures))
    return Outcome(summary, complaints, rounds, seconds, figures)
