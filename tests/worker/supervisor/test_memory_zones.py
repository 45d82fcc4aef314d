"""The zones of proxy-cache in memory, when their gateway has ended."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from config_sync.settings import Settings
from worker.supervisor import memory_zones
from worker.supervisor.files import MASTER_STATE
from worker.supervisor.memory_zones import claim, memory_directory, remove_own, remove_stale


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "memory"
    directory.mkdir()
    monkeypatch.setattr(memory_zones, "MEMORY", directory)
    return directory


def gateway(directory: Path, pid: int) -> tuple[Settings, Path]:
    """Return the settings of a gateway whose master has this pid, and a zone of it."""
    directory.mkdir(parents=True)
    (directory / MASTER_STATE).write_text(json.dumps({"pid": pid}))
    settings = Settings(runtime_dir=str(directory))
    zone = memory_directory(settings, "a-b")
    (zone / "ab").mkdir(parents=True)
    claim(zone, settings)
    return settings, zone


@pytest.fixture
def dead() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_one_takes_away_its_own(memory: Path, tmp_path: Path) -> None:
    settings, own = gateway(tmp_path / "one", os.getpid())
    _, other = gateway(tmp_path / "two", os.getpid())
    remove_own(settings)
    assert (own.exists(), other.exists()) == (False, True)


def test_those_of_the_dead_are_taken_away(memory: Path, tmp_path: Path, dead: int) -> None:
    settings, living = gateway(tmp_path / "living", os.getpid())
    _, stale = gateway(tmp_path / "dead", dead)
    _, gone = gateway(tmp_path / "gone", os.getpid())
    (tmp_path / "gone" / MASTER_STATE).unlink()
    remove_stale(settings)
    assert (living.exists(), stale.exists(), gone.exists()) == (True, False, False)


def test_what_is_not_known_to_be_a_zone_stays(memory: Path, tmp_path: Path, dead: int) -> None:
    settings, zone = gateway(tmp_path / "one", dead)
    unclaimed = memory / zone.name.replace("a-b", "c")
    unclaimed.mkdir()
    of_others = memory / zone.name.replace(f"cache-{os.geteuid()}-", f"cache-{os.geteuid() + 1}-")
    of_others.mkdir()
    claim(of_others, settings)
    lying = memory / f"propylon-cache-{os.geteuid()}-0123456789abcdef-a"
    lying.mkdir()
    claim(lying, settings)
    outside = tmp_path / "outside"
    outside.mkdir()
    link = memory / zone.name.replace("a-b", "d")
    link.symlink_to(outside)
    remove_stale(settings)
    assert not zone.exists()
    assert all(path.exists() for path in (unclaimed, of_others, lying, outside, link))
    remove_own(settings)
    assert all(path.exists() for path in (of_others, lying, outside, link))


def test_without_shared_memory_a_zone_is_a_directory_of_the_gateway(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_zones, "MEMORY", tmp_path / "none")
    settings = Settings(runtime_dir=str(tmp_path))
    assert memory_directory(settings, "a") == settings.path("cache-a")
    remove_own(settings)
    remove_stale(settings)
