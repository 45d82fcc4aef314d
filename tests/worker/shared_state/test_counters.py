"""Counts that several workers share."""

import contextlib
import mmap
import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.scoreboard import Scoreboard
from worker.shared_state.counters import HOLD_TIME, SharedCounters
from worker.shared_state.memory import SharedState

SECOND = 1_000_000_000


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.ns = 1_000 * SECOND

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> SharedState:
    return opened(clock, 3)


def opened(clock: Callable[[], int], workers: int, **sizes: int) -> SharedState:
    made = SharedState(clock=clock, **sizes)
    for number in range(workers):
        made.open(number)
    return made


def test_workers_count_together_until_the_window_ends(state: SharedState, clock: Clock) -> None:
    one, two = state.counters(0), state.counters(1)
    assert one.increment(b"a", 10) == (1, 1_010.0)
    clock.ns += 4 * SECOND
    assert two.increment(b"a", 10) == (2, 1_010.0)
    assert one.increment(b"b", 10, by=5) == (5, 1_014.0)
    assert (one.count(b"a"), two.count(b"b"), two.count(b"c")) == (2, 5, 0)
    clock.ns += 6 * SECOND
    assert one.count(b"a") == 0
    assert two.increment(b"a", 10) == (1, 1_020.0)
    assert one.increment(b"a", 10) == (2, 1_020.0)


Step = tuple[int, bytes, int, int]
STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from([b"a", b"b", b"c"]), st.integers(-2, 3), st.integers(0, 4)),
    max_size=60,
)


@given(STEPS)
def test_counts_are_those_of_a_dictionary(steps: list[Step]) -> None:
    """Whoever counts, and whenever windows end."""
    clock = Clock()
    state = opened(clock, 3)
    workers = [state.counters(number) for number in range(3)]
    model: dict[bytes, tuple[int, int]] = {}  # count and end
    for worker, key, by, pause in steps:
        clock.ns += pause * SECOND
        count, end = model.get(key, (0, 0))
        if end <= clock.ns:
            count, end = 0, clock.ns + 5 * SECOND
        model[key] = count + by, end
        assert workers[worker].increment(key, 5, by) == (max(0, count + by), end / SECOND)


@given(STEPS)
def test_what_is_held_is_what_living_workers_hold(steps: list[Step]) -> None:
    clock = Clock()
    state = opened(clock, 3)
    workers = [state.counters(number) for number in range(3)]
    model: dict[tuple[int, bytes], int] = {}
    for worker, key, by, kind in steps:
        if kind == 4:
            state.clear(worker)
            model = {held: count for held, count in model.items() if held[0] != worker}
        model[worker, key] = model.get((worker, key), 0) + by
        total = sum(count for (_, held), count in model.items() if held == key)
        assert workers[worker].hold(key, by) == max(0, total)


def test_what_is_held_for_long_is_not_forgotten(state: SharedState, clock: Clock) -> None:
    one, two = state.counters(0), state.counters(1)
    assert one.hold(b"a") == 1
    for _ in range(5):
        clock.ns += int(HOLD_TIME * 0.9 * SECOND)
        two.hold(b"a")
        two.hold(b"a", -1)
    assert one.hold(b"a", -1) == 0
    assert one.count(b"a") == 0


def test_a_dead_workers_counts_stay_and_what_it_held_goes() -> None:
    board = Scoreboard(4)
    one, two = board.allocate(0, 1), board.allocate(1, 1)
    mine, yours = board.state.counters(one.number), board.state.counters(two.number)
    mine.increment(b"a", 60, by=3)
    mine.hold(b"h", 3)
    yours.hold(b"h", 1)
    board.release(one)
    assert yours.increment(b"a", 60)[0] == 4
    assert yours.hold(b"h") == 2
    again = board.allocate(0, 2)
    assert again.number == one.number
    successor = board.state.counters(again.number)
    assert successor.increment(b"a", 60)[0] == 5
    assert successor.hold(b"h") == 3


def test_when_there_is_no_room_what_ends_first_is_forgotten(clock: Clock) -> None:
    state = opened(clock, 1, counters=1, notes=1)
    counters = state.counters(0)
    room = state.counter_places.count
    keys = [b"%d" % at for at in range(2 * room)]
    for at, key in enumerate(keys):
        counters.increment(key, 100 + at)
    assert room // 2 < state.counter_places.evicted < 1.5 * room
    assert counters.count(keys[0]) == 0
    assert counters.count(keys[-1]) == 1
    alive = [key for key in keys if counters.count(key)]
    assert len(alive) == len(keys) - state.counter_places.evicted
    assert all(counters.count(key) == 1 for key in alive)


def in_child(run: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(0)
    return pid


def test_nothing_is_lost_by_four_processes_that_are_killed() -> None:
    state = opened(time.monotonic_ns, 4)
    done = memoryview(mmap.mmap(-1, 4096)).cast("q")  # what each has counted, as it says itself
    keys = [b"%d" % at for at in range(20)]

    def count(worker: int) -> None:
        counters = state.counters(worker)
        while True:
            for key in keys:
                counters.increment(key, 1_000)
                done[worker] += 1

    workers = [in_child(lambda worker=worker: count(worker)) for worker in range(4)]  # type: ignore[misc]
    kills = 0
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until or min(done[:4]) < 500:
            worker = random.randrange(4)
            os.kill(workers[worker], signal.SIGKILL)
            os.waitpid(workers[worker], 0)
            kills += 1
            workers[worker] = in_child(lambda worker=worker: count(worker))  # type: ignore[misc]
            time.sleep(0.02)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    counted = sum(state.counters(0).count(key) for key in keys)
    # Who is killed between its count and what it says of it has counted one more.
    assert sum(done[:4]) <= counted <= sum(done[:4]) + kills + 4
    assert kills > 5


def test_windows_end_for_four_processes_alike() -> None:
    state = opened(time.monotonic_ns, 4)
    read, write = os.pipe()

    def count(worker: int) -> None:
        counters = state.counters(worker)
        mine: dict[float, tuple[int, int]] = {}  # by the window's end: how often we have counted, and what we saw last
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            seen, end = counters.increment(b"a", 0.05)
            mine[end] = mine.get(end, (0, 0))[0] + 1, seen
        os.write(write, b"".join(b"%r %d %d\n" % (end, times, seen) for end, (times, seen) in mine.items()))

    workers = [in_child(lambda worker=worker: count(worker)) for worker in range(4)]  # type: ignore[misc]
    for pid in workers:
        os.waitpid(pid, 0)
    os.close(write)
    windows: dict[str, list[tuple[int, int]]] = {}
    with os.fdopen(read) as told:
        for line in told:
            end, times, seen = line.split()
            windows.setdefault(end, []).append((int(times), int(seen)))
    exact = [each for each in windows.values() if max(seen for _, seen in each) == sum(times for times, _ in each)]
    # A window is begun anew by one alone, unless it was not scheduled in that very moment for ``PATIENCE``.
    assert len(exact) >= len(windows) - state.locks.given_up - 4 > 0


@pytest.fixture
def stopped(state: SharedState) -> object:
    """Have a process that was stopped while it held every lock."""
    read, write = os.pipe()

    def hold() -> None:
        for bucket in range(state.counter_places.buckets + state.note_places.buckets):
            state.locks.acquire(bucket)
        os.write(write, b"x")
        signal.pause()

    pid = in_child(hold)
    os.read(read, 1)
    os.kill(pid, signal.SIGSTOP)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


@pytest.mark.usefixtures("stopped")
def test_nobody_waits_for_a_process_that_is_stopped(state: SharedState) -> None:
    counters = state.counters(0)
    began = time.monotonic()
    assert counters.increment(b"a", 60)[0] == 1
    state.notes.put(b"a", b"note", 60)
    assert state.notes.get(b"a") == b"note"
    assert time.monotonic() - began < 1.0  # 1 ms on a quiet machine
    assert state.locks.given_up == 2
    assert state.counters(1).increment(b"a", 60)[0] == 2
    assert state.locks.given_up == 2


def test_the_locks_of_the_dead_are_free(state: SharedState, stopped: int) -> None:
    os.kill(stopped, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, stopped, os.WEXITED | os.WNOWAIT)
    assert state.counters(0).increment(b"a", 60)[0] == 1
    assert state.locks.given_up == 0


def test_a_worker_remembers_places_only_so_long(monkeypatch: pytest.MonkeyPatch, state: SharedState) -> None:
    monkeypatch.setattr("worker.shared_state.counters.MAX_KNOWN", 3)
    counters: SharedCounters = state.counters(0)
    for turn in (1, 2):
        for at in range(10):
            assert counters.increment(b"%d" % at, 60)[0] == turn
