"""Memory that is the test's own."""

from pathlib import Path

import pytest

from worker.supervisor import memory_zones


@pytest.fixture(autouse=True)
def _memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_zones, "MEMORY", tmp_path)
