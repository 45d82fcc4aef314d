"""Rings: what is put in comes out, in order, once."""

from hypothesis import given
from hypothesis import strategies as st

from worker.upstream.health.machine import Report
from worker.upstream.health.reports import CAPACITY, ReportRing, Run
from worker.upstream.health.table import HealthTable

runs = st.builds(Run, st.integers(0, 0xFFFF), st.integers(0, 0xFFF), st.sampled_from(Report), st.integers(1, 255))


def new_ring() -> ReportRing:
    return HealthTable(2).ring(1)


@given(st.lists(st.lists(runs, max_size=40), max_size=30))
def test_runs_come_out_as_they_went_in(batches: list[list[Run]]) -> None:
    ring = new_ring()
    for batch in batches:
        assert all(ring.put(run) for run in batch)
        assert list(ring.take()) == batch


def test_a_full_ring_takes_nothing_until_it_is_read() -> None:
    ring = new_ring()
    run = Run(1, 2, Report.TIMEOUT, 3)
    assert [ring.put(run) for _ in range(CAPACITY + 1)] == [True] * CAPACITY + [False]
    assert len(list(ring.take())) == CAPACITY
    assert ring.put(run)


def test_the_next_prober_goes_on_where_the_last_one_was() -> None:
    table = HealthTable(1)
    writer, first, second = table.ring(0), table.ring(0), table.ring(0)
    for at in range(3):
        writer.put(Run(at, 0, Report.SUCCESS, 1))
    assert next(first.take()).slot == 0
    assert [run.slot for run in second.take()] == [1, 2]


def test_a_prober_that_wakes_up_late_does_not_block_the_ring() -> None:
    table = HealthTable(1)
    ring, late = table.ring(0), table.ring(0)
    ring.put(Run(0, 0, Report.SUCCESS, 1))
    sleeping = late.take()
    for at in range(3 * CAPACITY):
        ring.put(Run(at, 0, Report.SUCCESS, 1))
        list(ring.take())
    list(sleeping)
    ring.put(Run(9, 0, Report.TIMEOUT, 1))
    assert [run for run in ring.take() if run.report is Report.TIMEOUT] == [Run(9, 0, Report.TIMEOUT, 1)]


def test_rings_are_apart() -> None:
    table = HealthTable(2)
    table.ring(0).put(Run(1, 1, Report.SUCCESS, 1))
    assert list(table.ring(1).take()) == []
