"""The throw-away process, with real forks."""

import os
import signal
import time
from pathlib import Path

import pytest

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from worker.supervisor.precheck import Precheck, describe


def verdict_of(check: object) -> str:
    precheck = Precheck(Settings(), list, check)  # type: ignore[arg-type]
    _, status = os.waitpid(precheck.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return precheck.verdict(signal.Signals(-code).name if code < 0 else f"exit code {code}")


def fail(error: BaseException) -> None:
    raise error


def test_what_is_wrong_is_told() -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert verdict_of(lambda _: None) == ""
    assert verdict_of(lambda _: fail(SettingsError("user: nobody knows him"))) == "user: nobody knows him"
    assert "SIGKILL" in verdict_of(lambda _: os.kill(os.getpid(), signal.SIGKILL))
    assert "exit code 3" in verdict_of(lambda _: os._exit(3))
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_that_takes_too_long_is_ended() -> None:
    precheck = Precheck(Settings(), list, lambda _: time.sleep(60))
    precheck.drop()
    assert os.waitstatus_to_exitcode(os.waitpid(precheck.pid, 0)[1]) == -signal.SIGKILL


def test_an_error_names_its_file() -> None:
    with pytest.raises(FileNotFoundError) as missing:
        Path("/none.pem").read_text()
    assert describe(missing.value) == "[Errno 2] No such file or directory: '/none.pem'"
    with pytest.raises(SyntaxError) as syntax:
        compile("def:", "worker/x.py", "exec")
    assert describe(syntax.value) == "SyntaxError: invalid syntax (worker/x.py:1)"
    with pytest.raises(ZeroDivisionError) as other:
        print(1 // 0)
    assert describe(other.value).startswith(f"ZeroDivisionError: integer division or modulo by zero ({__file__}:")


def test_what_only_an_upgrade_can_replace_is_said() -> None:
    with pytest.raises(ImportError) as missing:
        from worker.supervisor.precheck import nothing_of_that_name  # type: ignore[attr-defined] # noqa: F401
    assert "USR2" in describe(missing.value, {"worker.supervisor.precheck"})
    assert "USR2" not in describe(missing.value, {"worker.supervisor.child"})
