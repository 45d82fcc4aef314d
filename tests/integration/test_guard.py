"""Real workers before an etcd that was emptied or replaced: what they hold back, and what lets it pass."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import Etcd, Gateway, wait_until
from tests.fakes.upstream import Upstream
from tests.fakes.wire import ThreadedWire

ROUTES = 20


@pytest.fixture
def wire(etcd: Etcd) -> Iterator[ThreadedWire]:
    with ThreadedWire(etcd.url) as running:
        yield running


@pytest.fixture(params=["worker", "node"])
def watch(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(
    tmp_path: Path, etcd: Etcd, wire: ThreadedWire, upstream: Upstream, watch: str
) -> Iterator[Callable[..., Gateway]]:
    """Starts two workers with 20 routes."""
    started: list[Gateway] = []

    def starting(**settings: object) -> Gateway:
        fill(etcd, upstream)
        started.append(
            Gateway(
                tmp_path,
                wire.url,
                etcd={"host": [wire.url], "resync_delay": 0.2, "startup_timeout": 0.5, "watch": watch},
                **settings,
            )
        )
        started[-1].start()
        return started[-1]

    yield starting
    for gateway in started:
        gateway.kill()


def fill(etcd: Etcd, upstream: Upstream) -> None:
    etcd.put("upstreams/u", {"nodes": {f"127.0.0.1:{upstream.port}": 1}})
    for number in range(ROUTES):
        etcd.put(f"routes/{number}", route(f"/{number}"))


def route(uri: str) -> dict[str, Any]:
    return {"uri": uri, "upstream_id": "u"}


def statuses(gateway: Gateway) -> set[int]:
    """What all routes answer; every one is asked four times, so that both workers are."""
    return {gateway.get(f"/{number}")[0] for number in range(ROUTES) for _ in range(4)}


def holders(gateway: Gateway) -> list[dict[str, Any]]:
    """What each worker holds back that does."""
    return [worker["held"] for worker in gateway.sync()["workers"] if worker["held"] is not None]


def expected_holders(watch: str) -> int:
    return 1 if watch == "node" else 2  # one watches for all


def is_held(gateway: Gateway, watch: str) -> bool:
    return len(holders(gateway)) == expected_holders(watch)


def confirm(gateway: Gateway) -> None:
    status, answer = gateway.control("/v1/sync/confirm", "POST")
    assert status == 200, answer
    wait_until(lambda: statuses(gateway) == {404}, "the routes go")
    assert holders(gateway) == []


def empty_behind_a_compaction(etcd: Etcd, wire: ThreadedWire) -> None:
    """Delete everything so that no watch can tell of it."""
    wire.cut()
    etcd.compact(etcd.delete_everything())
    wire.mend()


def replace(etcd: Etcd, wire: ThreadedWire) -> None:
    etcd.wipe()


@pytest.mark.parametrize("empty", [empty_behind_a_compaction, replace])
def test_an_emptied_store_is_held_back_until_it_is_confirmed(
    start: Callable[..., Gateway],
    etcd: Etcd,
    wire: ThreadedWire,
    watch: str,
    empty: Callable[[Etcd, ThreadedWire], None],
) -> None:
    gateway = start()
    assert gateway.control("/v1/sync/confirm", "POST")[0] == 409, "there is nothing to confirm"
    empty(etcd, wire)
    wait_until(lambda: is_held(gateway, watch), "it is held back")
    assert statuses(gateway) == {200}
    assert all((held["removes"], held["of"]) == (ROUTES, ROUTES) for held in holders(gateway))
    assert f"this would remove {ROUTES} of {ROUTES} routes and is held back; confirm it if it is meant" in gateway.log()
    confirm(gateway)
    gateway.applied(etcd.put("upstreams/u", {"nodes": {"127.0.0.1:1": 1}}))
    gateway.applied(etcd.put("routes/new", route("/new")))
    assert gateway.get("/new")[0] == 502


def test_a_store_that_comes_back_needs_no_confirmation(
    start: Callable[..., Gateway], etcd: Etcd, upstream: Upstream, watch: str
) -> None:
    gateway = start()
    etcd.wipe()
    wait_until(lambda: is_held(gateway, watch), "it is held back")
    fill(etcd, upstream)
    revision = etcd.put("routes/0", route("/changed"))
    wait_until(lambda: holders(gateway) == [], "it is no longer held back")
    wait_until(lambda: gateway.get("/changed")[0] == 200, "the new history is served")
    assert {gateway.get(f"/{number}")[0] for number in range(1, ROUTES)} == {200}
    gateway.applied(revision)
    gateway.applied(etcd.put("routes/1", route("/too")))


def test_what_is_held_back_passes_by_itself_in_time(start: Callable[..., Gateway], etcd: Etcd, watch: str) -> None:
    gateway = start(guard={"hold": 6.0})
    etcd.wipe()
    wait_until(lambda: is_held(gateway, watch), "it is held back")
    since = max(datetime.fromisoformat(held["since"]) for held in holders(gateway))
    assert statuses(gateway) == {200}
    wait_until(lambda: statuses(gateway) == {404}, "the routes go")
    assert datetime.now(UTC) - since >= timedelta(seconds=6.0), "not before its time"
    assert holders(gateway) == []


def test_ordinary_deletions_pass(start: Callable[..., Gateway], etcd: Etcd) -> None:
    gateway = start()
    gateway.applied(etcd.delete_everything())
    assert statuses(gateway) == {404}
    assert holders(gateway) == []


def test_ordinary_deletions_pass_after_a_cut(start: Callable[..., Gateway], etcd: Etcd, wire: ThreadedWire) -> None:
    gateway = start()
    wire.cut()
    revision = etcd.delete_everything()
    wire.mend()
    gateway.applied(revision)
    assert statuses(gateway) == {404}


def test_the_guard_holds_over_a_restart(start: Callable[..., Gateway], etcd: Etcd, watch: str) -> None:
    gateway = start()
    gateway.saved()
    assert gateway.stop() == 0
    etcd.wipe()
    gateway.launch()
    wait_until(lambda: ready(gateway), "it serves")
    wait_until(lambda: is_held(gateway, watch), "it is held back")
    assert statuses(gateway) == {200}
    assert {worker["stale"] for worker in gateway.sync()["workers"]} == {True}
    confirm(gateway)
    assert {worker["stale"] for worker in gateway.sync()["workers"]} == {False}


def test_the_guard_holds_over_a_reload(start: Callable[..., Gateway], etcd: Etcd, watch: str) -> None:
    gateway = start()
    etcd.wipe()
    wait_until(lambda: is_held(gateway, watch), "it is held back")
    before = gateway.workers()
    assert gateway.command("-s", "reload").returncode == 0, gateway.log()
    wait_until(lambda: not before & gateway.workers(), "the old workers are gone")
    wait_until(lambda: is_held(gateway, watch), "the new ones hold it back")
    assert statuses(gateway) == {200}
    confirm(gateway)


def ready(gateway: Gateway) -> bool:
    try:
        return gateway.control("/status/ready")[0] == 200
    except OSError:
        return False
