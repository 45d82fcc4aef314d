"""Entries, and records that are never seen half."""

import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.published import MAX_RECORD_BYTES
from worker.scoreboard import MAX_SLOTS, Entry, Scoreboard, WorkerState


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(4)


def test_living_entries_are_listed_by_slot(board: Scoreboard) -> None:
    one, two, old = board.allocate(1, 2), board.allocate(0, 2), board.allocate(0, 1)
    assert [(entry.slot, entry.generation) for entry in board.living()] == [(0, 1), (0, 2), (1, 2)]
    two.state = WorkerState.READY
    assert [entry.slot for entry in board.ready()] == [0]
    for entry in (one, two, old):
        board.release(entry)
    assert board.living() == []


def test_a_new_entry_has_no_record_of_the_one_before(board: Scoreboard) -> None:
    entry = board.allocate(0, 1)
    assert entry.published() == b""
    entry.publish(b"first")
    board.release(entry)
    again = board.allocate(0, 2)
    assert (again.number, again.published()) == (entry.number, b"")


@given(st.lists(st.binary(max_size=MAX_RECORD_BYTES), min_size=1, max_size=5))
def test_the_last_record_is_read_as_it_was_published(records: list[bytes]) -> None:
    board = Scoreboard(2)
    entry, neighbour = board.allocate(0, 1), board.allocate(1, 1)
    neighbour.publish(b"neighbour")
    for record in records:
        entry.publish(record)
        assert entry.published() == record
    assert neighbour.published() == b"neighbour"


def test_a_record_that_is_too_long_is_refused(board: Scoreboard) -> None:
    entry = board.allocate(0, 1)
    entry.publish(b"before")
    with pytest.raises(ValueError, match="4088 is the limit"):
        entry.publish(bytes(MAX_RECORD_BYTES + 1))
    assert entry.published() == b"before"


def test_no_reader_sees_half_a_record(board: Scoreboard) -> None:
    entry = board.allocate(0, 1)
    writer = os.fork()
    if writer == 0:
        try:
            for at in range(1_000_000):
                entry.publish(bytes([at % 251]) * (1 + at % MAX_RECORD_BYTES))
        finally:
            os._exit(0)
    try:
        seen: set[int] = set()
        while len(seen) < 300:
            record = entry.published()
            assert len(set(record)) <= 1
            seen.add(len(record))
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert len(set(entry.published())) == 1  # the writer has been killed at any moment


def test_a_promise_binds_as_far_as_others_keep_it(board: Scoreboard) -> None:
    one, two = board.allocate(0, 1), board.allocate(1, 1)
    one.state, one.revision = WorkerState.READY, 9
    assert board.owed() == 0
    board.promise(7)
    board.promise(5)
    assert board.owed() == 7
    one.revision = 3  # the store was restored
    assert board.owed() == 3
    two.revision = 100
    board.release(one)
    assert board.owed() == 0


def test_a_confirmation_is_seen_by_everybody(board: Scoreboard) -> None:
    assert board.confirmed_at == 0
    child = os.fork()
    if child == 0:
        board.confirm()
        os._exit(0)
    os.waitpid(child, 0)
    assert 0 < board.confirmed_at <= time.monotonic()


def test_revisions_of_another_store_are_owed_to_nobody() -> None:
    board = Scoreboard(8)
    old, new = board.allocate(0, 1, store=7), board.allocate(0, 2, store=8)
    old.state = new.state = WorkerState.READY
    old.revision = 900
    board.promise(900)
    assert (board.owed(7), board.owed(8)) == (900, 0)
    new.revision = 5
    assert board.owed(8) == 5


def test_scoreboard_entries_are_apart_and_used_again() -> None:
    board = Scoreboard(2)
    one, two = board.allocate(0, 1), board.allocate(1, 1)
    one.revision = 5
    two.heartbeat_ns = 1 << 62
    assert (one.revision, two.revision, one.heartbeat_ns) == (5, 0, 0)
    assert one.state == WorkerState.STARTING
    board.release(one)
    again = board.allocate(0, 2)
    assert (again.revision, again.generation) == (0, 2)


def test_a_full_scoreboard_refuses_a_worker() -> None:
    board = Scoreboard(1)
    entry = board.allocate(0, 1)
    with pytest.raises(OSError, match="workers already"):
        board.allocate(1, 1)
    board.release(entry)
    board.allocate(1, 1)


def test_restarts_are_counted_by_slot(board: Scoreboard) -> None:
    board.count_restart(1)
    board.count_restart(1)
    board.count_restart(MAX_SLOTS)  # of no use, but no harm either
    assert [board.restarts(slot) for slot in (0, 1, 2, MAX_SLOTS)] == [0, 2, 0, 0]
    entry = board.allocate(0, 1)
    assert board.restarts(0) == 0
    entry.pid = 5
    assert board.restarts(1) == 2


def test_fields_records_and_the_masters_record_share_no_memory(board: Scoreboard) -> None:
    entries = [board.allocate(slot, 1) for slot in range(4)]
    names = [name for name, value in vars(Entry).items() if isinstance(value, property)]
    for number, entry in enumerate(entries):
        for at, name in enumerate(names):
            setattr(entry, name, 1 + number * 100 + at)
        entry.publish(bytes([number]) * MAX_RECORD_BYTES)
    board.publish_master(b"m" * MAX_RECORD_BYTES)
    for number, entry in enumerate(entries):
        assert [getattr(entry, name) for name in names] == [1 + number * 100 + at for at in range(len(names))]
        assert entry.published() == bytes([number]) * MAX_RECORD_BYTES
    assert board.published_by_master() == b"m" * MAX_RECORD_BYTES
