"""Rounds come when they are due."""

import msgspec

from config_sync import schema
from config_sync.schema.upstreams import ActiveChecks, ActiveHealthy, ActiveUnhealthy
from worker.upstream.health.checker import Checker
from worker.upstream.health.schedule import Schedule


def checker(healthy: int = 1, unhealthy: int = 3, name: str = "upstreams/1", **active: object) -> Checker:
    base = ActiveChecks(healthy=ActiveHealthy(interval=healthy), unhealthy=ActiveUnhealthy(interval=unhealthy))
    checks = schema.HealthChecks(active=msgspec.structs.replace(base, **active))
    return Checker(name, schema.Upstream(), checks)


def due(schedule: Schedule, now: float) -> list[tuple[str, bool]]:
    return [(entry.resource, entry.of_usable) for entry in schedule.due(now)]


def test_the_first_round_comes_after_one_interval_and_then_each_in_its_own() -> None:
    schedule = Schedule()
    schedule.put(checker(), 10.0, at_random=False)
    assert due(schedule, 10.9) == []
    seen = [(now, usable) for now in range(11, 17) for _, usable in due(schedule, float(now))]
    assert seen == [(11, True), (12, True), (13, False), (13, True), (14, True), (15, True), (16, False), (16, True)]


def test_one_that_takes_over_begins_within_an_interval() -> None:
    schedule = Schedule()
    for at in range(50):
        schedule.put(checker(10, 10, f"upstreams/{at}"), 0.0, at_random=True)
    early = due(schedule, 5.0)
    assert 0 < len(early) < 100
    assert len(early) + len(due(schedule, 10.0)) >= 100


def test_equal_checks_go_on_and_others_begin_anew() -> None:
    schedule = Schedule()
    schedule.put(checker(2, 100), 0.0, at_random=False)
    schedule.put(checker(2, 100), 1.0, at_random=False)
    assert due(schedule, 2.0) == [("upstreams/1", True)]
    schedule.put(checker(2, 100, http_path="/other"), 3.0, at_random=False)
    assert due(schedule, 4.0) == []
    assert due(schedule, 5.0) == [("upstreams/1", True)]


def test_rounds_that_were_missed_are_not_made_up_for() -> None:
    schedule = Schedule()
    schedule.put(checker(1, 100), 0.0, at_random=False)
    assert len(due(schedule, 50.0)) == 1
    assert due(schedule, 50.9) == []
    assert len(due(schedule, 51.0)) == 1


def test_what_is_removed_is_due_no_more() -> None:
    schedule = Schedule()
    schedule.put(checker(), 0.0, at_random=False)
    schedule.remove("upstreams/1")
    assert due(schedule, 100.0) == []
