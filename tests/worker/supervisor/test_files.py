"""Files in a directory that workers can write to, too."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from tests.fakes.processes import wait_until
from worker.supervisor.files import (
    PidFile,
    check_logs,
    give_error_log,
    is_master,
    remove_stale_locks,
    write_reload_result,
)


def test_nothing_is_written_through_a_link_that_a_worker_has_made(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    for name in ("propylon.pid", "reload.tmp"):
        (tmp_path / name).symlink_to(precious)
    with pytest.raises(SettingsError, match="cannot write"):
        PidFile(tmp_path / "propylon.pid").write()
    write_reload_result(Settings(runtime_dir=str(tmp_path)), 1, True, "", 0)
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


def test_only_a_master_of_ours_is_believed_to_be_one() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()", "master.py"], stdin=subprocess.PIPE) as like_a_master:
        wait_until(lambda: is_master(like_a_master.pid, {os.geteuid()}), "its command line is there")
        assert not is_master(like_a_master.pid, {os.geteuid() + 1})
        like_a_master.communicate(b"\n")
        assert not is_master(like_a_master.pid, {os.geteuid()})
    assert not is_master(1, {0})
    assert not is_master(os.getpid(), {os.geteuid()})


def test_an_error_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"error_log: .*none"):
        check_logs(Settings(runtime_dir=str(tmp_path), error_log="none/error.log"))
    check_logs(Settings(runtime_dir=str(tmp_path), error_log="error.log"))
    assert (tmp_path / "error.log").exists()
