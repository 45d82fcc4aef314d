"""A worker's view of the table, what it tells balancers, and what it hands over."""

from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Any

import msgspec
import pytest

from config_sync import schema
from worker.exchange import Exchange
from worker.upstream.balancers.interface import Leaf
from worker.upstream.health.machine import Report, State, Status
from worker.upstream.health.passive import MAX_RUNS
from worker.upstream.health.registry import CheckRegistry
from worker.upstream.health.reports import CAPACITY, Run
from worker.upstream.health.table import JOURNAL, NOWHERE, SEQUENCE, HealthTable
from worker.upstream.peer import Peer, Upstream
from worker.upstream.pool import Pool, PoolKey

CHECKS = {"active": {}, "passive": {"unhealthy": {"http_statuses": [500]}}}


class Told:
    """A balancer that keeps what it is told."""

    def __init__(self) -> None:
        self.unhealthy: list[list[str]] = []

    def next(self, exchange: Exchange, tried: Collection[Peer] = ()) -> Peer | None:
        return None

    def peek(self, exchange: Exchange) -> Peer | None:
        return None

    def leaves(self) -> Sequence[Leaf]:
        return ()

    def set_unhealthy(self, peers: Collection[Peer]) -> None:
        self.unhealthy.append([peer.host for peer in peers])


@pytest.fixture
def table() -> HealthTable:
    return HealthTable(1)


@pytest.fixture
def registry(table: HealthTable) -> CheckRegistry:
    return CheckRegistry(table)


def use(
    registry: CheckRegistry, *hosts: str, resource: str = "upstreams/1", checks: Any = CHECKS
) -> tuple[Upstream, Told]:
    peers = [Peer(host, 80, 1, 0, Pool(PoolKey("http", host, 80, 1, 60.0, 1000))) for host in hosts]
    told = Told()
    upstream = Upstream("1", peers, told, None, 0.0, None, "pass", None)
    registry.use(resource, msgspec.convert({"checks": checks}, schema.Upstream), upstream)
    return upstream, told


def insert_all(table: HealthTable, registry: CheckRegistry) -> dict[str, int]:
    slots = {target.host: table.insert(target.key) for target in registry.targets.values()}
    registry.refresh()
    return slots


def test_without_checks_an_upstream_has_nothing_of_it(registry: CheckRegistry) -> None:
    upstream, _ = use(registry, "a", checks=None)
    assert upstream.checker is None
    assert upstream.passive is None
    assert registry.targets == {}


def test_balancers_are_told_when_usability_changes_and_only_then(table: HealthTable, registry: CheckRegistry) -> None:
    _, told = use(registry, "a", "b")
    slots = insert_all(table, registry)
    table.write(slots["a"], Status(State.MOSTLY_HEALTHY, 0, 1))
    registry.refresh()
    assert told.unhealthy == [[]]
    table.write(slots["a"], Status(State.UNHEALTHY, 0, 5))
    registry.refresh()
    table.write(slots["a"], Status(State.MOSTLY_UNHEALTHY, 1))
    registry.refresh()
    assert told.unhealthy == [[], ["a"]]
    table.write(slots["a"], Status(State.HEALTHY, 2))
    registry.refresh()
    assert told.unhealthy == [[], ["a"], []]


def test_what_is_built_later_is_told_what_is_known(table: HealthTable, registry: CheckRegistry) -> None:
    use(registry, "a", "b")
    table.write(insert_all(table, registry)["b"], Status(State.UNHEALTHY))
    registry.refresh()
    assert use(registry, "a", "b")[1].unhealthy == [["b"]]
    assert use(CheckRegistry(table), "b", "c")[1].unhealthy == [["b"]]
    assert use(registry, "a", "b", resource="routes/1")[1].unhealthy == [[]]


def test_targets_stay_while_somebody_uses_them(registry: CheckRegistry) -> None:
    old, _ = use(registry, "a", "b")
    new, _ = use(registry, "b", "c")
    assert registry.current("upstreams/1") is new.checker
    assert old.checker is not None
    registry.leave(old.checker)
    assert {target.host for target in registry.targets.values()} == {"b", "c"}
    assert new.checker is not None
    registry.leave(new.checker)
    assert registry.targets == {}
    assert registry.current("upstreams/1") is None


def test_an_upstream_that_was_prepared_and_dropped_leaves_the_old_one(registry: CheckRegistry) -> None:
    old, _ = use(registry, "a")
    prepared, _ = use(registry, "b")
    assert prepared.checker is not None
    registry.leave(prepared.checker)
    assert registry.current("upstreams/1") is old.checker


def test_a_target_whose_slot_is_freed_is_healthy(table: HealthTable, registry: CheckRegistry) -> None:
    _, told = use(registry, "a", "b")
    slots = insert_all(table, registry)
    table.write(slots["a"], Status(State.UNHEALTHY))
    registry.refresh()
    table.remove(slots["a"])
    registry.refresh()
    assert told.unhealthy == [[], ["a"], []]
    assert [target.slot for target in registry.targets.values() if target.host == "a"] == [NOWHERE]


def test_a_sequence_that_goes_back_makes_everybody_look_at_everything(
    table: HealthTable, registry: CheckRegistry
) -> None:
    _, told = use(registry, "a")
    slots = insert_all(table, registry)
    before = table.sequence
    table.write(slots["a"], Status(State.UNHEALTHY))
    registry.refresh()
    table.write(slots["a"], Status(State.HEALTHY))
    table.words[SEQUENCE] = before  # by a former prober, that was stopped between reading and writing it
    assert sum(1 for _ in takewhile(lambda _: registry.refresh(), range(10))) < 10, "the loop would never rest"
    assert told.unhealthy == [[], ["a"], []]


def test_who_was_asleep_for_long_looks_at_everything(table: HealthTable, registry: CheckRegistry) -> None:
    _, told = use(registry, "a", "b")
    slots = insert_all(table, registry)
    for at in range(JOURNAL + 1):
        table.write(slots["a"], Status(State(at % 2)))
    table.write(slots["b"], Status(State.UNHEALTHY))
    for _ in range(JOURNAL):
        table.insert(table.sequence + 1_000)
    while registry.refresh():
        pass
    assert told.unhealthy == [[], ["b"]]


def taken(table: HealthTable) -> list[tuple[Report, int]]:
    return [(run.report, run.length) for run in table.ring(0).take()]


def test_only_what_may_change_something_is_handed_over(table: HealthTable, registry: CheckRegistry) -> None:
    upstream, _ = use(registry, "a")
    insert_all(table, registry)
    peer, passive = upstream.peers[0], upstream.passive
    assert passive is not None
    for status in (200, 404, 200):
        passive.answered(peer, status)
    assert len(registry.outbox) == 0
    for status in (500, 500, 200, 404, 200, 200, 500):
        passive.answered(peer, status)
    passive.failed(peer, timed_out=True)
    passive.failed(peer, timed_out=False)
    registry.outbox.flush(table, table.ring(0))
    assert taken(table) == [
        *((Report.HTTP_FAILURE, 2), (Report.SUCCESS, 3), (Report.HTTP_FAILURE, 1)),
        *((Report.TIMEOUT, 1), (Report.TCP_FAILURE, 1)),
    ]


def test_without_passive_checks_failed_tries_are_handed_over(table: HealthTable, registry: CheckRegistry) -> None:
    upstream, _ = use(registry, "a", checks={"active": {}})
    insert_all(table, registry)
    assert upstream.passive is not None
    upstream.passive.answered(upstream.peers[0], 500)
    upstream.passive.failed(upstream.peers[0], timed_out=False)
    registry.outbox.flush(table, table.ring(0))
    assert taken(table) == [(Report.TCP_FAILURE, 1)]


def test_reports_wait_for_a_slot_and_for_room(table: HealthTable, registry: CheckRegistry) -> None:
    upstream, _ = use(registry, "a")
    assert upstream.passive is not None
    ring = table.ring(0)
    upstream.passive.answered(upstream.peers[0], 500)
    registry.outbox.flush(table, ring)
    assert len(registry.outbox) == 1
    insert_all(table, registry)
    for _ in range(CAPACITY):
        ring.put(Run(0, 0, Report.SUCCESS, 1))
    registry.outbox.flush(table, ring)
    assert len(registry.outbox) == 1
    list(ring.take())
    registry.outbox.flush(table, ring)
    assert taken(table) == [(Report.HTTP_FAILURE, 1)]


def test_reports_that_nobody_takes_do_not_pile_up(registry: CheckRegistry) -> None:
    upstream, _ = use(registry, "a")
    assert upstream.passive is not None
    for at in range(3 * MAX_RUNS):
        upstream.passive.answered(upstream.peers[0], 500 if at % 2 else 200)
    assert len(registry.outbox) == MAX_RUNS
