"""Reloads, one after the other."""

from pathlib import Path

from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import rig
from benchmarks.reload.scenarios.driving import SHUTDOWN_TIMEOUT, TRANSFER, drive, everybody, settings


def run(
    directory: Path,
    limits: Limits,
    mode: str = "slot",
    workers: int = 2,
    grace: float = 0.2,
    share: float = 1.0,
    transfer: tuple[float, float] = TRANSFER,
    timeout: float = SHUTDOWN_TIMEOUT,
) -> Outcome:
    """Reload without a pause; slow bodies outlive a reload.

    ``grace`` is ``reload.grace`` and ``timeout`` ``worker_shutdown_timeout``.
    """
    with rig(directory, **settings(mode, workers, grace, timeout)) as running:

        def step(number: int) -> None:
            running.reload()

        return drive(running, limits, everybody(running.gateway.port, transfer, share), step, timeout)
