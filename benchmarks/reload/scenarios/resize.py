"""Reloads with the number of workers alternating between four and three."""

import signal
from pathlib import Path

from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import complains, rig
from benchmarks.reload.scenarios.driving import TRANSFER, drive, everybody, settings

MANY, FEW = 4, 3


def run(
    directory: Path,
    limits: Limits,
    mode: str = "slot",
    by_signal: bool = False,
    grace: float = 0.2,
    share: float = 1.0,
    transfer: tuple[float, float] = TRANSFER,
) -> Outcome:
    """Resize without a pause, by HUP with another ``worker_processes``, or by TTOU and TTIN."""
    with rig(directory, **settings(mode, MANY, grace)) as running:

        def step(number: int) -> None:
            count = MANY if number % 2 else FEW
            if by_signal:
                running.resize(signal.SIGTTIN if count == MANY else signal.SIGTTOU, count)
            else:
                running.reload(worker_processes=count)

        outcome = drive(running, limits, everybody(running.gateway.port, transfer, share), step)
        left = FEW if outcome.rounds % 2 else MANY
        outcome.complaints += complains(lambda: len(running.gateway.workers()) == left, f"{left} workers are left")
        return outcome
