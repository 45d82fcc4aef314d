"""What a process says it occupies."""

import os
from pathlib import Path

import pytest

from worker.memory import resident_memory


def test_what_is_touched_is_counted() -> None:
    before = resident_memory()
    touched = os.urandom(1) * 32_000_000
    assert before + 24_000_000 < resident_memory() < before + 64_000_000
    assert len(touched) == 32_000_000


def test_without_procfs_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.memory._STATM", Path("/nowhere/statm"))
    assert resident_memory() == 0
