"""What a signal means in each phase, and how long a failing slot waits."""

import errno
import os
import pwd
import signal
import time
from pathlib import Path

import pytest

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from master import (
    LONGEST_DELAY,
    PLAN,
    Command,
    Master,
    Phase,
    PidFile,
    Slot,
    give_error_log,
    plan,
    remove_stale_locks,
    respawn_delay,
)
from worker.scoreboard import Scoreboard, WorkerState


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


def test_the_first_death_is_answered_at_once_and_later_ones_ever_later() -> None:
    delays = [respawn_delay(failures) for failures in range(1, 20)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY


def test_scoreboard_entries_are_apart_and_used_again() -> None:
    board = Scoreboard(2)
    one, two = board.allocate(0, 1), board.allocate(1, 1)
    one.revision = 5
    two.heartbeat_ns = 1 << 62
    assert (one.revision, two.revision, one.heartbeat_ns) == (5, 0, 0)
    assert one.state == WorkerState.STARTING
    board.release(one)
    again = board.allocate(0, 2)
    assert (again.revision, again.generation) == (0, 2)


def test_a_fork_that_fails_is_tried_again_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    master = Master("", Settings(runtime_dir=str(tmp_path)))
    master.phase = Phase.RUNNING
    master.slots.append(Slot([]))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        master._fill(0)
    assert master.slots[0].worker is None
    assert (master.slots[0].respawn_at or 0) > time.monotonic()
    assert master._scoreboard.living() == []
    assert len(os.listdir("/proc/self/fd")) == before
    master._resize(1)
    assert (master.phase, master._upcoming, len(master.slots)) == (Phase.RUNNING, None, 1)
    assert "cannot be forked" in (tmp_path / "reload.json").read_text()


def test_a_full_scoreboard_refuses_a_worker() -> None:
    board = Scoreboard(1)
    entry = board.allocate(0, 1)
    with pytest.raises(OSError, match="workers already"):
        board.allocate(1, 1)
    board.release(entry)
    board.allocate(1, 1)


def test_nothing_is_written_through_a_link_that_a_worker_has_made(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    for name in ("propylon.pid", "reload.tmp"):
        (tmp_path / name).symlink_to(precious)
    with pytest.raises(SettingsError, match="cannot write"):
        PidFile(tmp_path / "propylon.pid").write()
    Master("", Settings(runtime_dir=str(tmp_path)))._write_result(True, "")
    assert precious.read_text() == "kept"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_is_given_to_workers_is_the_log_and_not_what_a_link_in_its_place_leads_to(tmp_path: Path) -> None:
    precious, log = tmp_path / "precious", tmp_path / "error.log"
    precious.touch()
    settings = Settings(runtime_dir=str(tmp_path), user="nobody", error_log="error.log")
    log.symlink_to(precious)
    give_error_log(settings)
    assert precious.stat().st_uid == 0
    log.unlink()
    log.touch()
    give_error_log(settings)
    assert log.stat().st_uid == pwd.getpwnam("nobody").pw_uid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs workers as another user")
def test_locks_of_workers_of_another_user_do_not_keep_ours_from_theirs(tmp_path: Path) -> None:
    lock = tmp_path / "health.lock"
    lock.touch(0o600)
    remove_stale_locks(Settings(runtime_dir=str(tmp_path)))
    assert lock.exists()
    remove_stale_locks(Settings(runtime_dir=str(tmp_path), user="nobody"))
    assert not lock.exists()
