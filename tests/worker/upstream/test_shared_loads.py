"""Rows of workers: what each sees of the others."""

import os
from math import isclose

from hypothesis import given
from hypothesis import strategies as st

from tests.worker.upstream.balancers.values import exchange, peer
from worker.scoreboard import Scoreboard
from worker.upstream.balancers.least_conn import LeastConnections
from worker.upstream.balancers.tracked import Tracked
from worker.upstream.load import Load
from worker.upstream.shared_loads import ROWS, LoadRow, SharedLoads


def rows(count: int) -> tuple[SharedLoads, list[LoadRow]]:
    loads = SharedLoads(rows=count)
    made = []
    for number in range(count):
        loads.open(number)
        row = loads.row(number)
        assert row is not None
        made.append(row)
    return loads, made


def test_workers_see_what_others_have_under_way() -> None:
    _, (first, second, third) = rows(3)
    mine, theirs = Load("1 a:80", first), [Load("1 a:80", second), Load("1 a:80", third)]
    mine.enter()
    for load in theirs:
        load.enter()
        load.enter()
    mine.refresh()
    assert (mine.active, mine.count) == (1, 5)
    theirs[0].leave()
    mine.refresh()
    assert mine.count == 4


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc"), st.booleans()), max_size=50))
def test_counts_are_those_of_the_others(moves: list[tuple[int, str, bool]]) -> None:
    _, made = rows(3)
    loads = {(number, name): Load(name, made[number]) for number in range(3) for name in "abc"}
    for number, name, begins in moves:
        load = loads[number, name]
        if begins:
            load.enter()
        elif load.active:
            load.leave()
    for (_, name), load in loads.items():
        load.refresh()
        assert load.count == sum(loads[other, name].active for other in range(3))


def test_a_child_is_seen_and_forgotten_with_its_end() -> None:
    board = Scoreboard(entries=4)
    mine, theirs = board.allocate(0, 1), board.allocate(1, 1)
    row = board.loads.row(mine.number)
    child = os.fork()
    if child == 0:
        Load("1 a:80", board.loads.row(theirs.number)).enter()
        os._exit(0)
    os.waitpid(child, 0)
    load = Load("1 a:80", row)
    load.refresh()
    assert load.count == 1
    board.release(theirs)
    load.refresh()
    assert load.count == 0


def test_more_workers_than_rows_do_without() -> None:
    loads = SharedLoads()
    loads.open(ROWS)
    loads.clear(ROWS)
    assert loads.row(ROWS) is None
    alone = Load("1 a:80", None)
    alone.enter()
    alone.refresh()
    assert (alone.active, alone.count) == (1, 1)


def test_least_connections_avoids_what_another_worker_loads() -> None:
    _, made = rows(2)
    here = [peer("a"), peer("b")]
    for each in here:
        each.load = Load(each.address, made[0])
    there = Load("a:80", made[1])
    for _ in range(5):
        there.enter()
    balancer = Tracked(LeastConnections(here), here)
    chosen = [balancer.next(exchange()) for _ in range(6)]
    assert chosen.count(here[1]) >= 5


def test_least_connections_sees_what_others_load_before_its_first_choice() -> None:
    """As a worker must that begins while those before it drain."""
    _, made = rows(2)
    for busy in (0, 1, 2):
        here = [peer("a"), peer("b"), peer("c")]
        for each in here:
            each.load = Load(f"{busy} {each.address}", made[0])
        for each in here:
            if each is not here[busy]:
                Load(f"{busy} {each.address}", made[1]).enter()
        assert LeastConnections(here).next(exchange()) is here[busy]


def test_a_worker_that_begins_goes_on_from_what_others_have_measured() -> None:
    loads, (first, second, third) = rows(3)
    Load("1 a:80", timed=first).sample(0.4, 100.0)
    Load("1 a:80", timed=second).sample(0.2, 110.0)
    Load("1 b:80", timed=second).sample(0.1, 110.0)
    loads.clear(0)  # it may be those before it that have measured
    mine = Load("1 a:80", timed=third)
    mine.begin(110.0)
    assert isclose(mine.average, 0.3)
    assert mine.sampled_at == 110.0
    mine.sample(5.0, 120.0)
    mine.begin(120.0)
    assert mine.average > 1  # it goes by its own
    later = Load("1 a:80", timed=first)
    later.begin(171.0)
    assert isclose(later.average, mine.average, abs_tol=1e-6)  # the others' are too old
    new = Load("1 c:80", timed=first)
    new.begin(171.0)
    assert new.score(171.0) == 0.0


@given(st.floats(0, 1e6), st.floats(0, 1e8))
def test_measures_are_read_as_they_were_told(average: float, at: float) -> None:
    _, (row,) = rows(1)
    row.tell(7, average, at)
    told = row.measured(7, at - 1)
    if told is None:
        assert (int(average * 1e6), int(at * 10)) == (0, 0)
    else:
        assert isclose(told[0], min(average, 2_147.483_647), abs_tol=1e-5)
        assert isclose(told[1], at, abs_tol=0.11)
