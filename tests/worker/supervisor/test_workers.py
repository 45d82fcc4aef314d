"""The workers of a master, without any."""

import errno
import os
import time
from pathlib import Path

import pytest

from config_sync.settings import ControlSettings, Settings
from worker.supervisor.child import Slot
from worker.supervisor.listeners import close_listeners
from worker.supervisor.orders import Finish
from worker.supervisor.precheck import check
from worker.supervisor.retirement import RELEASING, SETTLING
from worker.supervisor.rolling import Kind, Rolling, resize_plan
from worker.supervisor.spawn import serve
from worker.supervisor.workers import Workers


def test_a_fork_that_fails_is_tried_again_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    settings = Settings(runtime_dir=str(tmp_path), listen=("127.0.0.1:0",), control=ControlSettings(listen=""))
    workers = Workers(settings, serve)
    workers.slots.append(Slot(0, []))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        workers.fill(workers.slots[0], 1, settings)
    assert workers.slots[0].worker is None
    assert (workers.slots[0].respawn_at or 0) > time.monotonic()
    assert workers.scoreboard.living() == []
    rolling = Rolling(Kind.RESIZE, resize_plan(settings, 1, 2), workers, settings, (1, 1), check)
    rolling.begin()
    assert rolling.result == Finish(False, "a worker cannot be forked: Resource temporarily unavailable")
    assert len(workers.slots) == 1
    settled = time.monotonic() + SETTLING
    workers.tick(settled)
    workers.tick(settled + RELEASING)
    assert workers.given_up == []
    close_listeners(workers.slots[0].listeners)
    assert len(os.listdir("/proc/self/fd")) == before


def test_while_most_slots_wait_one_a_second_is_filled_before_its_time(tmp_path: Path) -> None:
    workers = Workers(Settings(runtime_dir=str(tmp_path)), serve)
    workers.slots = slots = [Slot(number, []) for number in range(4)]
    slots[0].respawn_at, slots[1].respawn_at = 130.0, 120.0
    workers.hurry(100.0)
    assert [slot.respawn_at for slot in slots] == [130.0, 120.0, None, None]  # half of them do not
    slots[2].respawn_at = 110.0
    workers.hurry(101.0)
    assert slots[2].respawn_at == 101.0
    slots[2].respawn_at, slots[3].respawn_at = 141.0, 101.5  # it died again, and so did another
    workers.hurry(101.2)
    assert [slot.respawn_at for slot in slots] == [130.0, 120.0, 141.0, 101.5]
    slots[3].respawn_at = 131.5
    workers.hurry(101.6)
    assert [slot.respawn_at for slot in slots] == [130.0, 102.0, 141.0, 131.5]
