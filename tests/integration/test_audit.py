"""What real workers notice by themselves: updates that never came, and a store that is another one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import Etcd, Gateway, wait_until
from tests.fakes.upstream import Upstream
from tests.fakes.wire import ThreadedWire


@pytest.fixture
def wire(etcd: Etcd) -> Iterator[ThreadedWire]:
    with ThreadedWire(etcd.url) as running:
        yield running


@pytest.fixture(params=["worker", "node"])
def gateway(
    request: pytest.FixtureRequest, tmp_path: Path, etcd: Etcd, wire: ThreadedWire, upstream: Upstream
) -> Iterator[Gateway]:
    """Two workers that audit twice a second."""
    etcd.put("upstreams/u", {"nodes": {f"127.0.0.1:{upstream.port}": 1}})
    etcd.put("routes/1", route("/one"))
    etcd.put("epoch", b"first life")
    running = Gateway(
        tmp_path,
        wire.url,
        etcd={
            "host": [wire.url],
            "resync_delay": 0.2,
            "audit_interval": 0.5,
            "watch": request.param,
            "epoch_key": "epoch",
        },
    )
    running.start()
    yield running
    running.kill()


def route(uri: str) -> dict[str, Any]:
    return {"uri": uri, "upstream_id": "u"}


def incidents(gateway: Gateway) -> int:
    return sum(worker["incidents"] for worker in gateway.sync()["workers"])


def served_by_all(gateway: Gateway, path: str) -> bool:
    return gateway.sync()["agree"] is True and all(gateway.get(path)[0] == 200 for _ in range(12))


def test_while_nothing_is_lost_there_is_no_incident(gateway: Gateway, etcd: Etcd, wire: ThreadedWire) -> None:
    for turn in range(60):
        if turn % 10 == 0:
            wire.cut()
        revision = etcd.put(f"routes/{turn % 7}", route(f"/{turn}"))
        if turn % 10 == 0:
            wire.mend()
        gateway.applied(revision)
    assert incidents(gateway) == 0
    assert "listing again" not in gateway.log()


def test_an_update_that_was_withheld_from_a_worker(gateway: Gateway, etcd: Etcd, wire: ThreadedWire) -> None:
    """What comes after it moves the cursor past it, so that only the audit can tell."""
    wire.hide("routes/2")
    etcd.put("routes/2", route("/two"))
    wait_until(lambda: not wire.hides, "it is withheld")
    gateway.applied(etcd.put("routes/3", route("/three")))
    wait_until(lambda: incidents(gateway) == 1, "an incident is counted")
    assert "audit: routes/2 is not live as of revision" in gateway.log()
    wait_until(lambda: served_by_all(gateway, "/two"), "it is healed")


def test_a_deletion_that_was_withheld_from_a_worker(gateway: Gateway, etcd: Etcd, wire: ThreadedWire) -> None:
    wire.hide("routes/1")
    etcd.delete("routes/1")
    wait_until(lambda: not wire.hides, "it is withheld")
    gateway.applied(etcd.put("routes/3", route("/three")))
    wait_until(lambda: incidents(gateway) == 1, "an incident is counted")
    wait_until(lambda: {gateway.get("/one")[0] for _ in range(12)} == {404}, "it is healed")
    wait_until(lambda: gateway.sync()["agree"] is True, "all agree")


def test_the_last_update_of_all_was_withheld(gateway: Gateway, etcd: Etcd, wire: ThreadedWire) -> None:
    """The watch is quiet, and rightly so for all it knows: only etcd's own list has something newer."""
    wire.hide("routes/2")
    revision = etcd.put("routes/2", route("/two"))
    gateway.applied(revision)
    assert not wire.hides
    assert served_by_all(gateway, "/two")
    assert incidents(gateway) == 1
    assert "the watch has not brought what is newer than" in gateway.log()


def test_a_loss_that_the_next_version_of_the_key_tells(gateway: Gateway, etcd: Etcd, wire: ThreadedWire) -> None:
    wire.hide("routes/1")
    etcd.put("routes/1", route("/1a"))
    wait_until(lambda: not wire.hides, "it is withheld")
    gateway.applied(etcd.put("routes/1", route("/1b")))
    wait_until(lambda: incidents(gateway) == 1, "an incident is counted")
    wait_until(lambda: served_by_all(gateway, "/1b"), "it is healed")


def test_a_store_wiped_and_filled_again_to_a_like_revision(
    gateway: Gateway, etcd: Etcd, wire: ThreadedWire, upstream: Upstream
) -> None:
    """The same ids, keys and revisions; only the epoch key and the values tell."""
    before = gateway.sync()["revision"]
    wire.cut()
    etcd.wipe()
    etcd.put("upstreams/u", {"nodes": {f"127.0.0.1:{upstream.port}": 1}})
    etcd.put("routes/1", route("/other"))
    revision = etcd.put("epoch", b"second life")
    assert revision == before
    wire.mend()
    wait_until(lambda: gateway.get("/one")[0] == 404 and served_by_all(gateway, "/other"), "the new life is served")
    assert "the epoch key has changed; listing again" in gateway.log()
    gateway.applied(etcd.put("routes/2", route("/two")))
    assert served_by_all(gateway, "/two")


def test_a_new_epoch_makes_everybody_list_again(gateway: Gateway, etcd: Etcd) -> None:
    gateway.applied(etcd.put("epoch", b"as an operator does"))
    assert "the epoch key has changed; listing again" in gateway.log()
    gateway.applied(etcd.put("routes/2", route("/two")))
    assert served_by_all(gateway, "/two")
