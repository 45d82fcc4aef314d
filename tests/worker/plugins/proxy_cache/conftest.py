"""Memory that is the test's own."""

from pathlib import Path

import pytest

from worker.plugins.proxy_cache import zones


@pytest.fixture(autouse=True)
def _memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zones, "MEMORY", tmp_path)
