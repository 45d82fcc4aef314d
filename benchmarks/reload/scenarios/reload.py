"""Reloads, one after the other."""

from pathlib import Path

from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import rig
from benchmarks.reload.scenarios.driving import drive, everybody, settings


def run(
    directory: Path,
    limits: Limits,
    mode: str = "slot",
    workers: int = 2,
    grace: float = 0.2,
    share: float = 1.0,
    transfer: tuple[float, float] = (2.0, 4.0),
) -> Outcome:
    """Reload without a pause; ``grace`` is ``reload.grace``, and slow bodies outlive a reload or more."""
    with rig(directory, **settings(mode, workers, grace)) as running:

        def step(number: int) -> None:
            running.reload()

        return drive(running, limits, everybody(running.gateway.port, transfer, share), step)
