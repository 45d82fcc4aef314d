"""What a signal means in each phase, and what is kept for later."""

import signal

import pytest

from worker.supervisor.signals import PLAN, Command, Phase, Wishes, plan


@pytest.mark.parametrize(
    ("phase", "received", "command"),
    [
        (Phase.RUNNING, signal.SIGHUP, Command.RELOAD),
        (Phase.STARTING, signal.SIGHUP, Command.RELOAD),
        (Phase.RELOADING, signal.SIGHUP, Command.RELOAD),
        (Phase.STOPPING, signal.SIGHUP, Command.IGNORE),
        (Phase.STOPPING, signal.SIGQUIT, Command.IGNORE),
        (Phase.STOPPING, signal.SIGTERM, Command.TERMINATE),
        (Phase.RELOADING, signal.SIGTTIN, Command.GROW),
        (Phase.RUNNING, signal.SIGTTOU, Command.SHRINK),
        (Phase.RUNNING, signal.SIGUSR1, Command.REOPEN_LOGS),
    ],
)
def test_plan(phase: Phase, received: signal.Signals, command: Command) -> None:
    assert plan(phase, received) is command


def test_every_phase_can_be_stopped() -> None:
    assert set(PLAN) == set(Phase)
    assert all(plan(phase, signal.SIGTERM) is Command.TERMINATE for phase in Phase)


def test_wishes_are_merged_and_none_is_lost() -> None:
    wishes = Wishes()
    assert not wishes
    for command in (Command.GROW, Command.RELOAD, Command.RELOAD, Command.GROW, Command.GROW, Command.SHRINK):
        wishes.note(command)
    assert wishes.take() == Wishes(True, 1)
    assert not wishes
    wishes.note(Command.GROW)
    wishes.note(Command.SHRINK)
    assert not wishes
