"""Notes that several workers share."""

import contextlib
import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.shared_state.locks import Busy
from worker.shared_state.memory import SharedState
from worker.shared_state.notes import MAX_NOTE_BYTES

SECOND = 1_000_000_000


@given(
    st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.binary(max_size=MAX_NOTE_BYTES), st.integers(0, 6)),
        max_size=30,
    )
)
def test_notes_are_those_of_a_dictionary(steps: list[tuple[bytes, bytes, int]]) -> None:
    now = 1_000 * SECOND
    state = SharedState(clock=lambda: now)
    model: dict[bytes, tuple[bytes, int]] = {}
    for key, note, pause in steps:
        now += pause * SECOND
        state.notes.put(key, note, 10)
        model[key] = note, now + 10 * SECOND
        for each in (b"a", b"b", b"c"):
            noted, end = model.get(each, (None, 0))
            assert state.notes.get(each) == (noted if end > now else None)


def test_what_several_processes_change_is_changed_by_each() -> None:
    state = SharedState()
    rounds = 300

    def change() -> None:
        for _ in range(rounds):
            while True:
                with contextlib.suppress(Busy):
                    state.notes.update(b"a", lambda note: b"%d" % (int(note or b"0") + 1), 600)
                    break

    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            change()
            os._exit(0)
        children.append(pid)
    change()
    for pid in children:
        os.waitpid(pid, 0)
    assert state.notes.get(b"a") == b"%d" % (4 * rounds)


def test_what_has_ended_is_not_there_to_be_changed() -> None:
    now = 1_000 * SECOND
    state = SharedState(clock=lambda: now)
    seen: list[bytes | None] = []
    for pause in (0, 5, 10):
        now += pause * SECOND
        state.notes.update(b"a", lambda note: (seen.append(note), b"x")[1], 10)  # type: ignore[func-returns-value]
    assert seen == [None, b"x", None]


def test_a_note_that_is_too_long_is_refused() -> None:
    notes = SharedState().notes
    notes.put(b"a", bytes(MAX_NOTE_BYTES), 10)
    with pytest.raises(ValueError, match="240 is the limit"):
        notes.put(b"a", bytes(MAX_NOTE_BYTES + 1), 10)
    assert notes.get(b"a") == bytes(MAX_NOTE_BYTES)


def test_notes_beyond_the_room_there_is_make_room_for_themselves() -> None:
    state = SharedState(notes=16)
    for at in range(200):
        state.notes.put(b"%d" % at, b"%d" % at, 10)
        assert state.notes.get(b"%d" % at) == b"%d" % at
    assert state.note_places.evicted >= 200 - state.note_places.count


def test_no_reader_sees_half_a_note_whoever_is_killed() -> None:
    """Two write, one reads, and the writers are killed at any moment."""
    state = SharedState()
    state.notes.put(b"a", b"\0" * 7, 60)

    def write(offset: int) -> None:
        for at in range(offset, 10_000_000):
            state.notes.put(b"a", bytes([at % 251]) * (1 + at % MAX_NOTE_BYTES), 60)

    seen: set[int] = set()
    until = time.monotonic() + 1.0
    while time.monotonic() < until or len(seen) < 30:
        writers = []
        for offset in (0, 100):
            pid = os.fork()
            if pid == 0:
                try:
                    write(offset)
                finally:
                    os._exit(0)
            writers.append(pid)
        pause = time.monotonic() + 0.05
        while time.monotonic() < pause:
            note = state.notes.get(b"a")
            if note is not None:  # two that write without their lock can make it so
                assert len(set(note)) == 1
                seen.add(len(note))
        for pid in writers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        state.notes.put(b"a", b"x", 60)
        assert state.notes.get(b"a") == b"x"
