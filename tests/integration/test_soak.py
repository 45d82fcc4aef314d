"""The short form of the fault soak; the long one is ``python -m benchmarks.soak_sync``."""

import json
from pathlib import Path

import pytest

from benchmarks import soak_sync


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("watch", "seconds"), [("worker", 30), ("node", 20)])
def test_nothing_is_lost_under_faults(watch: str, seconds: int, tmp_path: Path) -> None:
    result = tmp_path / "soak.json"
    code = soak_sync.main(["--seconds", str(seconds), "--watch", watch, "--workers", "2", "--json", str(result)])
    outcome = json.loads(result.read_text())
    assert outcome["complaints"] == []
    assert code == 0
    assert outcome["faults"]
    assert outcome["batches"] > 100
