"""The table that metrics are added up in."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.shared_state.series import MAX_KEY_BYTES, SharedSeries


def added(table: SharedSeries, key: bytes, cells: list[int], limit: int = 1_000) -> bool:
    place = table.find(key) or table.claim(key, limit)
    if place is not None:
        table.add(place, cells)
    return place is not None


def everything(table: SharedSeries) -> dict[bytes, tuple[int, ...]]:
    found = (table.read(number) for number in range(table.places))
    return {stored.key: stored.cells for stored in found if stored is not None}


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=8), st.lists(st.integers(0, 1 << 40), max_size=5)), max_size=60)
)
def test_what_is_added_is_summed_by_key(additions: list[tuple[bytes, list[int]]]) -> None:
    table, sums = SharedSeries(256), dict[bytes, list[int]]()
    for key, cells in additions:
        assert added(table, key, cells)
        total = sums.setdefault(key, [0] * 5)
        for at, number in enumerate(cells):
            total[at] += number
    assert {key: list(cells[:5]) for key, cells in everything(table).items()} == sums
    assert table.used == len(sums)


def test_a_place_that_is_given_back_begins_anew() -> None:
    table = SharedSeries(8)
    assert added(table, b"a", [1, 2])
    place = table.find(b"a")
    assert place is not None
    table.free(place)
    table.free(place)
    assert (table.used, table.find(b"a"), table.is_current(place)) == (0, None, False)
    assert added(table, b"a", [5])
    assert everything(table)[b"a"][:2] == (5, 0)


def test_there_is_a_limit() -> None:
    table = SharedSeries(8)
    assert [added(table, bytes([number]), [1], limit=3) for number in range(5)] == [True, True, True, False, False]
    assert (table.used, table.refused) == (3, 2)
    assert [added(table, bytes([number]), [1], limit=100) for number in range(3, 10)] == [True] * 5 + [False] * 2
    with pytest.raises(ValueError, match="a key of"):
        table.claim(b"x" * (MAX_KEY_BYTES + 1), 100)


def test_processes_add_up_and_nobody_waits_for_a_lock() -> None:
    table = SharedSeries(64)
    reader, writer = os.pipe()
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            for _ in range(200):
                while not table.acquire():
                    pass
                added(table, b"all", [1, 2])
                table.release()
            os._exit(0)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert everything(table)[b"all"][:2] == (600, 1200)
    holder = os.fork()
    if holder == 0:
        os.write(writer, b"x" if table.acquire() else b"-")
        signal.pause()
    assert os.read(reader, 1) == b"x"
    assert not table.acquire()
    os.kill(holder, 9)
    os.waitpid(holder, 0)
    assert table.acquire()
    table.release()
    os.close(reader)
    os.close(writer)


def test_a_revision_is_first_seen_once() -> None:
    now = 10.0
    table = SharedSeries(8, clock=lambda: now)
    assert table.first_seen(5) == 0.0
    now = 10.5
    assert table.first_seen(5) == pytest.approx(0.5)
    assert table.first_seen(6) == 0.0
    assert table.first_seen(5 + 1024) == 0.0
    assert table.first_seen(5) == 0.0  # forgotten, and not taken for new
    assert table.first_seen(5 + 1024) == 0.0


def shared_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssShmem:"))


def test_to_look_at_every_place_takes_no_memory() -> None:
    table = SharedSeries(20_000)
    before = shared_memory()
    assert [number for number in range(table.places) if table.read(number) is not None] == []
    assert shared_memory() - before < 1 << 20
    assert table.size > 16 << 20
