"""Which master an orphan believes in."""

import json
import os
from pathlib import Path

import pytest

from config_sync.settings import Settings
from worker.orphan import has_successor
from worker.supervisor.files import MASTER_STATE

FORMER = 1


@pytest.mark.parametrize(
    ("pid", "state", "found"),
    [
        (os.getpid(), {"pid": os.getpid(), "ready": True}, True),
        (os.getpid(), {"pid": os.getpid(), "ready": False}, False),
        (os.getpid(), {"pid": os.getppid(), "ready": True}, False),
        (os.getpid(), None, False),
        (FORMER, {"pid": FORMER, "ready": True}, False),
        (2**22 + 1, {"pid": 2**22 + 1, "ready": True}, False),
        (None, {"pid": os.getpid(), "ready": True}, False),
    ],
    ids=["ready", "not ready", "of another", "silent", "the former", "dead", "no pid file"],
)
def test_only_a_living_master_that_is_ready(
    tmp_path: Path, pid: int | None, state: dict[str, object] | None, found: bool
) -> None:
    settings = Settings(runtime_dir=str(tmp_path))
    if pid is not None:
        (tmp_path / "propylon.pid").write_text(str(pid))
    if state is not None:
        (tmp_path / MASTER_STATE).write_text(json.dumps(state))
    assert has_successor(settings, FORMER) is found
