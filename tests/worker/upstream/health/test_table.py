"""The shared table: who finds what, and who is told."""

import os
import signal

from hypothesis import given
from hypothesis import strategies as st

from worker.upstream.health.machine import State, Status
from worker.upstream.health.table import JOURNAL, NOWHERE, TARGETS, WINDOW, HealthTable

keys = st.integers(1, 1 << 62)


@given(st.sets(keys, max_size=30), st.data())
def test_targets_are_found_while_they_are_there(present: set[int], data: st.DataObject) -> None:
    table = HealthTable(1)
    slots = {key: table.insert(key) for key in present}
    assert len(set(slots.values())) == len(present)
    gone = data.draw(st.sets(st.sampled_from(sorted(present)))) if present else set()
    for key in gone:
        table.remove(slots[key])
    for key in present:
        assert table.find(key) == (NOWHERE if key in gone else slots[key])
    assert table.occupied() == {key: slot for key, slot in slots.items() if key not in gone}


def test_keys_that_hash_alike_share_a_window_until_it_is_full() -> None:
    table = HealthTable(1)
    alike = [1 + at * TARGETS for at in range(WINDOW + 1)]
    slots = [table.insert(key) for key in alike]
    assert slots == [*range(1, WINDOW + 1), NOWHERE]
    table.remove(slots[0])
    assert table.insert(alike[-1]) == slots[0]
    assert [table.find(key) for key in alike[1:]] == [*slots[1:-1], slots[0]]


def test_the_last_place_has_a_whole_window() -> None:
    table = HealthTable(1)
    slots = [table.insert(TARGETS - 1 + at * TARGETS) for at in range(WINDOW)]
    assert NOWHERE not in slots
    table.write(slots[-1], Status(State.UNHEALTHY, 0, 1))
    assert table.status_at(slots[-1]).state is State.UNHEALTHY


def test_a_slot_that_is_used_again_is_healthy_and_of_another_generation() -> None:
    table = HealthTable(1)
    slot = table.insert(7)
    table.write(slot, Status(State.UNHEALTHY, 0, 0, 2))
    generation = table.generation_at(slot)
    table.remove(slot)
    assert table.insert(7 + TARGETS) == slot
    assert table.status_at(slot) == Status()
    assert table.generation_at(slot) == generation + 1


def test_the_journal_tells_of_states_and_not_of_counters() -> None:
    table = HealthTable(1)
    one, two = table.insert(1), table.insert(2)
    position = table.sequence
    table.write(one, Status(State.HEALTHY, success=1))
    assert table.changed_since(position, 10) == []
    table.write(two, Status(State.MOSTLY_HEALTHY, 0, 1))
    table.write(one, Status(State.UNHEALTHY, 0, 9))
    assert table.changed_since(position, 10) == [two, one]
    assert table.changed_since(position, 1) == [two]
    assert table.changed_since(position + 1, 1) == [one]


def test_who_is_too_far_behind_the_journal_is_told_so() -> None:
    table = HealthTable(1)
    slot = table.insert(1)
    for at in range(JOURNAL):
        table.write(slot, Status(State(at % 2)))
    position = table.sequence
    assert table.changed_since(position - JOURNAL, JOURNAL) is not None
    assert table.changed_since(position - JOURNAL - 1, JOURNAL) is None


def test_what_one_process_writes_another_reads() -> None:
    table = HealthTable(1)
    child = os.fork()
    if child == 0:
        try:
            table.write(table.insert(5), Status(State.UNHEALTHY, 0, 3))
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert table.status_at(table.find(5)) == Status(State.UNHEALTHY, 0, 3)


def test_no_reader_sees_half_a_status() -> None:
    table = HealthTable(1)
    slot = table.insert(5)
    writer = os.fork()
    if writer == 0:
        try:
            for at in range(10_000_000):
                count = at % 251
                table.write(slot, Status(State(count % 4), count, count, count, count))
        finally:
            os._exit(0)
    try:
        seen: set[int] = set()
        while len(seen) < 100:
            state, *counts = table.status_at(slot)
            assert len(set(counts)) == 1
            assert state == counts[0] % 4
            seen.add(counts[0])
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
