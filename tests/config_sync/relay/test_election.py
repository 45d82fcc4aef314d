"""Lock and socket: one leader, whoever comes and goes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from config_sync.relay.election import Lock, connect, listen, peer_uid, relay_name
from config_sync.settings import EtcdSettings
from tests.fakes.processes import wait_until


def test_one_holds_it_until_it_lets_go(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    assert first.take()
    assert first.take(), "who has it, has it"
    assert not second.take()
    first.release()
    assert not first.is_held
    assert second.take()
    second.release()


def test_who_is_killed_does_not_hold_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = "import sys; from pathlib import Path; from config_sync.relay.election import Lock; "
    code += "lock = Lock(Path(sys.argv[1])); lock.take(); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        lock = Lock(path)
        assert not lock.take()
        holder.send_signal(signal.SIGKILL)
        wait_until(lock.take, "the lock is free")
        lock.release()


def test_a_lock_whose_file_was_replaced_is_not_taken_for_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    lock = Lock(path)
    opened = os.open

    def opened_too_early(name: Path, flags: int, mode: int) -> int:
        fd = opened(name, flags, mode)
        path.unlink()
        return fd

    monkeypatch.setattr(os, "open", opened_too_early)
    assert not lock.take()
    monkeypatch.undo()
    assert lock.take()
    lock.release()


def test_the_socket_is_for_us_alone_and_takes_the_place_of_a_former_one(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120) / "relay.sock"
    path.parent.mkdir()
    with listen(path):
        pass
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    with listen(path), connect(path) as ours:
        assert path.stat().st_mode & 0o777 == 0o600
        assert peer_uid(ours) == os.geteuid()


def test_a_socket_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "relay.sock"
    with listen(path):
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(PermissionError, match="another user"):
            connect(path)


def test_what_is_watched_is_in_the_name() -> None:
    name = relay_name(EtcdSettings(host=("http://a:1", "http://b:1")))
    assert name == relay_name(EtcdSettings(host=("http://b:1", "http://a:1"), timeout=3.0))
    assert name != relay_name(EtcdSettings(host=("http://a:1",)))
    assert name != relay_name(EtcdSettings(host=("http://a:1", "http://b:1"), prefix="/other"))
    assert name != relay_name(EtcdSettings(host=("http://a:1", "http://b:1"), user="reader"))
