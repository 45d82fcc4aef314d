"""What a process says it occupies."""

import os

import pytest

from worker.memory import Memory


def test_what_is_touched_is_counted() -> None:
    memory = Memory()
    before = memory.resident()
    touched = bytearray(os.urandom(1)) * 32_000_000
    assert before + 24_000_000 < memory.resident() < before + 64_000_000
    assert len(touched) == 32_000_000
    memory.close()
    memory.close()


def test_without_procfs_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.memory._STATM", "/nowhere/statm")
    memory = Memory()
    assert memory.resident() == 0
    memory.close()
