"""The master is replaced (USR2) again and again, by the command that waits for it."""

import contextlib
import os
import signal
import time
from pathlib import Path

from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import Reload, Rig, ScenarioError, rig, wait_for
from benchmarks.reload.scenarios.driving import drive, everybody

TIMEOUT = 5.0  # seconds that the WebSockets of an old master have


def run(
    directory: Path,
    limits: Limits,
    workers: int = 2,
    share: float = 1.0,
    transfer: tuple[float, float] = (1.0, 2.0),
) -> Outcome:
    """Upgrade, and wait for the end of the old master, before the next time."""
    with rig(directory, worker_processes=workers, worker_shutdown_timeout=TIMEOUT) as running:
        pids = [running.master]
        try:

            def step(number: int) -> None:
                began = time.monotonic()
                done = running.gateway.command("-s", "upgrade")
                if done.returncode:
                    raise ScenarioError(f"-s upgrade: {done.stderr.strip()}")
                old = pids[-1]
                wait_for(lambda: not _runs(old), f"master {old} has ended")
                running.reloads.append(Reload(began, time.monotonic()))
                pids.append(_named(running))

            outcome = drive(running, limits, everybody(running.gateway.port, transfer, share), step, TIMEOUT)
        finally:
            _end(_named(running))
    if len(set(pids)) != len(pids):
        outcome.complaints.append(f"the masters were {pids}")
    return outcome


def _named(running: Rig) -> int:
    try:
        return int((running.gateway.directory / "run" / "propylon.pid").read_text())
    except (OSError, ValueError):
        return 0


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _end(pid: int) -> None:
    """End the last master, which is no child of ours."""
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not _runs(pid), f"master {pid} has ended")
