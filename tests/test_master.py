"""The master by itself, without workers."""

import errno
import os
import time
from pathlib import Path

import pytest

from config_sync.settings import Settings
from master import Master
from worker.supervisor.child import Slot
from worker.supervisor.signals import Phase


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
