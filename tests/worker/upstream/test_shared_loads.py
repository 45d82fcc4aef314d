"""Rows of workers: what each sees of the others."""

import os

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
