"""What a signal means in each phase."""

import signal

import pytest

from worker.supervisor.signals import PLAN, Command, Phase, plan


@pytest.mark.parametrize(
    ("phase", "received", "command"),
    [
        (Phase.RUNNING, signal.SIGHUP, Command.RELOAD),
        (Phase.STARTING, signal.SIGHUP, Command.RELOAD_AGAIN),
        (Phase.RELOADING, signal.SIGHUP, Command.RELOAD_AGAIN),
        (Phase.STOPPING, signal.SIGHUP, Command.IGNORE),
        (Phase.STOPPING, signal.SIGQUIT, Command.IGNORE),
        (Phase.STOPPING, signal.SIGTERM, Command.TERMINATE),
        (Phase.RELOADING, signal.SIGTTIN, Command.IGNORE),
        (Phase.RUNNING, signal.SIGTTOU, Command.SHRINK),
        (Phase.RUNNING, signal.SIGUSR1, Command.REOPEN_LOGS),
    ],
)
def test_plan(phase: Phase, received: signal.Signals, command: Command) -> None:
    assert plan(phase, received) is command


def test_every_phase_can_be_stopped() -> None:
    assert set(PLAN) == set(Phase)
    assert all(plan(phase, signal.SIGTERM) is Command.TERMINATE for phase in Phase)
