"""Real workers that start, reload and go on while etcd is away, or holds what is not valid."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import Etcd, Gateway, wait_until
from tests.fakes.upstream import Upstream

UPSTREAM = "upstream"


def new_gateway(tmp_path: Path, etcd: Etcd, **etcd_settings: object) -> Gateway:
    return Gateway(
        tmp_path,
        etcd.url,
        etcd={"host": [etcd.url], "resync_delay": 0.2, "startup_timeout": 0.5, **etcd_settings},
        worker_startup_timeout=20,
    )


@pytest.fixture(params=["worker", "node"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path, etcd: Etcd, upstream: Upstream) -> Iterator[Gateway]:
    """Two workers that have a route and an upstream, which are on disk."""
    etcd.put("upstreams/u", {"nodes": {f"127.0.0.1:{upstream.port}": 1}})
    etcd.put("routes/1", route("/one"))
    running = new_gateway(tmp_path, etcd, watch=request.param)
    running.start()
    running.saved()
    yield running
    running.kill()


def route(uri: str) -> dict[str, Any]:
    return {"uri": uri, "upstream_id": "u"}


def serves(gateway: Gateway, path: str) -> bool:
    return gateway.get(path) == (200, UPSTREAM.encode())


def on_all_workers(gateway: Gateway, path: str) -> bool:
    """Ask often enough that with near certainty every worker was asked."""
    return all(serves(gateway, path) for _ in range(12))


def stale(gateway: Gateway) -> list[bool]:
    return [worker["stale"] for worker in gateway.sync()["workers"]]


def is_ready(gateway: Gateway) -> bool:
    try:
        return gateway.control("/status/ready")[0] == 200
    except OSError:
        return False


def fresh_log(gateway: Gateway) -> None:
    (gateway.directory / "run" / "error.log").write_text("")


def test_etcd_away_at_the_start_and_back_later(gateway: Gateway, etcd: Etcd) -> None:
    changed = gateway.sync()["workers"][0]["changed"]
    assert gateway.stop() == 0
    etcd.kill()
    fresh_log(gateway)
    gateway.launch()
    wait_until(lambda: is_ready(gateway), "it serves")
    assert on_all_workers(gateway, "/one")
    assert stale(gateway) == [True, True]
    sync = gateway.sync()
    assert sync["revision"] == changed
    assert sync["agree"] is True
    assert {worker["state"] for worker in sync["workers"]} == {"ready"}
    assert gateway.log().count(f"serves the configuration saved at revision {changed}, which may be out of date") == 2
    etcd.start()
    wait_until(lambda: stale(gateway) == [False, False], "they have compared")
    revision = etcd.put("routes/2", route("/two"))
    gateway.applied(revision)
    assert on_all_workers(gateway, "/two")
    assert on_all_workers(gateway, "/one")
    gateway.saved()


def test_what_changed_while_we_were_away_is_taken_over(gateway: Gateway, etcd: Etcd) -> None:
    gateway.stop()
    etcd.put("routes/1", route("/changed"))
    etcd.put("routes/3", route("/three"))
    etcd.kill()
    gateway.launch()
    wait_until(lambda: is_ready(gateway), "it serves")
    assert on_all_workers(gateway, "/one")
    etcd.start()
    wait_until(lambda: stale(gateway) == [False, False], "they have compared")
    assert on_all_workers(gateway, "/changed")
    assert on_all_workers(gateway, "/three")
    assert gateway.get("/one")[0] == 404


def test_a_damaged_snapshot_is_ignored_with_a_word(gateway: Gateway, etcd: Etcd) -> None:
    gateway.stop()
    path = gateway.directory / "run" / "config.snapshot"
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"?" + data[101:])
    etcd.kill()
    fresh_log(gateway)
    gateway.launch()
    wait_until(lambda: "cannot connect" in gateway.log(), "it looks for etcd")
    assert f"{path}: is damaged: its checksum is wrong; it is not used, and will be written anew" in gateway.log()
    assert not is_ready(gateway)
    etcd.start()
    wait_until(lambda: is_ready(gateway), "it serves")
    assert on_all_workers(gateway, "/one")
    gateway.saved()


def reload(gateway: Gateway) -> None:
    """Reload, and wait until the old workers are gone."""
    before = gateway.workers()
    done = gateway.command("-s", "reload")
    assert done.returncode == 0, done.stderr + gateway.log()
    wait_until(lambda: not before & gateway.workers(), "the old workers are gone")


def test_a_reload_while_a_value_is_not_valid_keeps_the_last_good_one(gateway: Gateway, etcd: Etcd) -> None:
    bad = etcd.put("routes/1", {"uri": 5})
    gateway.applied(bad)
    for _ in range(2):
        reload(gateway)
        assert on_all_workers(gateway, "/one")
        errors = gateway.control("/v1/config/errors")[1]["items"]
        assert [(error["key"], error["revision"], error["serves_last_good"]) for error in errors] == [
            ("routes/1", bad, True)
        ]
        gateway.saved()
    gateway.stop()
    gateway.launch()
    wait_until(lambda: is_ready(gateway), "it serves")
    assert on_all_workers(gateway, "/one")
    gateway.applied(etcd.put("routes/1", route("/healed")))
    assert on_all_workers(gateway, "/healed")
    assert gateway.control("/v1/config/errors")[1]["items"] == []


def test_a_reload_while_etcd_is_away(gateway: Gateway, etcd: Etcd) -> None:
    etcd.kill()
    for _ in range(2):
        reload(gateway)
        assert on_all_workers(gateway, "/one")
    etcd.start()
    gateway.applied(etcd.put("routes/2", route("/two")))
    assert on_all_workers(gateway, "/two")
    assert stale(gateway) == [False, False]


def test_a_reload_right_behind_a_change_that_is_not_on_disk_yet(gateway: Gateway, etcd: Etcd) -> None:
    revision = etcd.put("routes/2", route("/two"))
    gateway.applied(revision)
    etcd.kill()
    reload(gateway)
    assert on_all_workers(gateway, "/two")
    assert gateway.sync()["revision"] == revision


def test_a_worker_that_dies_while_etcd_is_away(gateway: Gateway, etcd: Etcd) -> None:
    etcd.kill()
    victim = gateway.sync()["workers"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in gateway.workers() and is_ready(gateway), "its slot has a worker again")
    assert on_all_workers(gateway, "/one")


def test_a_reload_moves_to_another_etcd_whatever_its_revision(
    gateway: Gateway, etcd: Etcd, tmp_path: Path, upstream: Upstream
) -> None:
    for turn in range(30):
        revision = etcd.put("routes/2", route(f"/{turn}"))
    gateway.applied(revision)
    (tmp_path / "other").mkdir()
    other = Etcd(tmp_path / "other")
    other.start()
    try:
        other.put("upstreams/u", {"nodes": {f"127.0.0.1:{upstream.port}": 1}})
        other.put("routes/1", route("/there"))
        etcd_settings = gateway.settings["etcd"]
        assert isinstance(etcd_settings, dict)
        gateway.write_conf(etcd={**etcd_settings, "host": [other.url]})
        reload(gateway)
        wait_until(lambda: on_all_workers(gateway, "/there"), "the other one is served")
        assert {gateway.get("/29")[0] for _ in range(12)} == {404}
        gateway.applied(other.put("routes/3", route("/three")))
        gateway.saved()
    finally:
        gateway.kill()
        other.kill()


def test_the_worker_that_writes_dies_and_another_writes(gateway: Gateway, etcd: Etcd) -> None:
    for turn in range(2):
        writer = holder_of(gateway.directory / "run" / "config.snapshot.lock")
        assert writer in gateway.workers()
        os.kill(writer, signal.SIGKILL)
        gateway.applied(etcd.put("routes/2", route(f"/{turn}")))
        gateway.saved()


def test_after_a_reload_a_new_worker_writes(gateway: Gateway, etcd: Etcd) -> None:
    reload(gateway)
    gateway.applied(etcd.put("routes/2", route("/two")))
    gateway.saved()
    assert holder_of(gateway.directory / "run" / "config.snapshot.lock") in gateway.workers()


def holder_of(path: Path) -> int:
    """Who has the lock of a file."""
    inode = str(path.stat().st_ino)
    found: list[int] = []

    def is_held() -> bool:
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if "FLOCK" in words and "->" not in words and words[5].rpartition(":")[2] == inode:
                found.append(int(words[4]))
        return bool(found)

    wait_until(is_held, "somebody has the lock")
    return found[0]
