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
from worker.shared_state.counters import HOLD_TIME, IDLE_TIME, REFUSED, Held, SharedCounters
from worker.shared_state.locks import Busy
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


def test_workers_take_together_until_the_window_ends(state: SharedState, clock: Clock) -> None:
    one, two = state.counters(0), state.counters(1)
    assert one.take(b"a", 3, 10) == (2, 10.0)
    clock.ns += 4 * SECOND
    assert two.take(b"a", 3, 10) == (1, 6.0)
    assert one.take(b"b", 1, 10) == (0, 10.0)
    assert one.take(b"a", 3, 10) == (0, 6.0)
    assert [two.take(b"a", 3, 10)[0], one.take(b"a", 3, 10)[0], two.take(b"b", 1, 10)[0]] == [REFUSED] * 3
    clock.ns += 6 * SECOND
    assert two.take(b"a", 3, 10) == (2, 10.0)
    assert one.take(b"a", 3, 10) == (1, 10.0)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([b"a", b"b"]), st.integers(0, 4)), max_size=60))
def test_takes_are_those_of_a_dictionary(steps: list[tuple[int, bytes, int]]) -> None:
    """Whoever takes, and whenever windows end."""
    clock = Clock()
    state = opened(clock, 3)
    workers = [state.counters(number) for number in range(3)]
    model: dict[bytes, tuple[int, int]] = {}  # taken and end
    for worker, key, pause in steps:
        clock.ns += pause * SECOND
        taken, end = model.get(key, (0, 0))
        if end <= clock.ns:
            taken, end = 0, clock.ns + 5 * SECOND
        taken += 1
        model[key] = taken, end
        assert workers[worker].take(key, 4, 5) == (4 - taken if taken <= 4 else REFUSED, (end - clock.ns) / SECOND)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3_000)), max_size=80), st.floats(0.1, 20), st.floats(0, 8))
def test_a_bucket_leaks_as_its_formula_says(steps: list[tuple[int, int]], rate: float, burst: float) -> None:
    """Excess = max(excess - rate * time + 1, 0); what is refused is not poured (plugins.md section 5)."""
    clock = Clock()
    state = opened(clock, 3)
    workers = [state.counters(number) for number in range(3)]
    excess, last = None, 0
    for worker, pause in steps:
        clock.ns += pause * 1_000_000
        expected = 0.0 if excess is None else max(excess - rate * (clock.ns - last) / SECOND + 1, 0.0)
        if abs(expected - burst) < 1e-3:
            return  # either answer is right
        got = workers[worker].pour(b"a", rate, burst)
        if expected > burst:
            assert got == REFUSED
        else:
            assert got == pytest.approx(expected, abs=1e-3)
            excess, last = expected, clock.ns


def test_a_bucket_is_not_forgotten_before_it_is_empty(state: SharedState, clock: Clock) -> None:
    one = state.counters(0)
    for _ in range(11):
        one.pour(b"a", 0.1, 10)
    for _ in range(50):
        clock.ns += 10 * SECOND
        assert one.pour(b"a", 0.1, 10) == pytest.approx(10)
        assert one.pour(b"a", 0.1, 10) == REFUSED


def test_windows_slide(state: SharedState) -> None:
    one, two = state.counters(0), state.counters(1)
    assert [one.slide(b"a", 4, 10, 100.0) for _ in range(2)] == [(3, 10.0), (2, 10.0)]
    assert [two.slide(b"a", 4, 10, 106.0)[0] for _ in range(3)] == [1, 0, REFUSED]
    # 4 in the window before, of which 90 % count at 111.
    assert one.slide(b"a", 4, 10, 111.0) == (REFUSED, 9.0)
    assert [two.slide(b"a", 4, 10, 113.0)[0] for _ in range(2)] == [0, REFUSED]
    assert [one.slide(b"a", 4, 10, 117.5)[0] for _ in range(3)] == [1, 0, REFUSED]
    # 3 in the window before: what was refused is not among them.
    assert [one.slide(b"a", 4, 10, 120.0)[0] for _ in range(2)] == [0, REFUSED]
    assert [one.slide(b"a", 4, 10, 150.0)[0] for _ in range(5)] == [3, 2, 1, 0, REFUSED]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([b"a", b"b"]), st.integers(0, 4)), max_size=60))
def test_what_is_held_is_what_living_workers_hold(steps: list[tuple[int, bytes, int]]) -> None:
    clock = Clock()
    state = opened(clock, 3)
    workers = [state.counters(number) for number in range(3)]
    model: dict[tuple[int, bytes], list[Held]] = {}
    for worker, key, kind in steps:
        mine = model.setdefault((worker, key), [])
        if kind == 4:
            state.clear(worker)
            model = {held: what for held, what in model.items() if held[0] != worker}
        elif kind == 3 and mine:
            workers[worker].let_go(mine.pop())
        else:
            others = sum(len(what) for (_, held), what in model.items() if held == key)
            count, held = workers[worker].hold(key)
            assert count == others + 1
            mine.append(held)


def test_what_is_held_for_long_is_not_forgotten(state: SharedState, clock: Clock) -> None:
    one, two = state.counters(0), state.counters(1)
    _, mine = one.hold(b"a")
    for _ in range(5):
        clock.ns += int(HOLD_TIME * 0.9 * SECOND)
        count, yours = two.hold(b"a")
        assert count == 2
        two.let_go(yours)
    one.let_go(mine)
    assert two.hold(b"a")[0] == 1


def test_no_more_is_held_than_may_be(state: SharedState) -> None:
    one, two = state.counters(0), state.counters(1)
    first, second = one.hold(b"a", 2), two.hold(b"a", 2)
    assert [first[0], second[0], one.hold(b"a", 2)[0], two.hold(b"a", 2)[0]] == [1, 2, REFUSED, REFUSED]
    one.let_go(first[1])
    assert two.hold(b"a", 2)[0] == 2


def test_a_key_of_which_nothing_is_held_soon_has_no_place(state: SharedState, clock: Clock) -> None:
    one, two = state.counters(0), state.counters(1)
    held = [one.hold(b"a")[1], two.hold(b"a")[1]]
    one.let_go(held[0])
    clock.ns += int(IDLE_TIME * SECOND)
    assert state.counter_places.find(b"a", clock.ns) is not None
    two.let_go(held[1])
    assert state.counter_places.find(b"a", clock.ns) is not None
    count, mine = one.hold(b"a")
    assert count == 1
    clock.ns += int(IDLE_TIME * SECOND)
    count, yours = two.hold(b"a")
    assert count == 2
    one.let_go(mine)
    two.let_go(yours)
    clock.ns += int(IDLE_TIME * SECOND)
    assert state.counter_places.find(b"a", clock.ns) is None


def test_processes_that_hold_at_the_same_moment_all_come_to_it() -> None:
    """Never more than may be, and nobody is refused who could have had it."""
    state = opened(time.monotonic_ns, 4)
    told = memoryview(mmap.mmap(-1, 4096)).cast("q")  # by worker what it holds, and how often it could

    def holding(worker: int) -> None:
        counters = state.counters(worker)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            count, held = counters.hold(b"a", 2, patient=False)
            if count != REFUSED:
                told[worker] = 1
                if sum(told[:4]) > 2:
                    told[8] += 1
                told[worker + 4] += 1
                told[worker] = 0
                counters.let_go(held)

    for pid in [in_child(lambda worker=worker: holding(worker)) for worker in range(4)]:  # type: ignore[misc]
        os.waitpid(pid, 0)
    assert told[8] == 0
    assert min(told[4:8]) > 0
    assert state.counters(0).hold(b"a")[0] == 1


def test_what_has_lost_its_place_is_let_go_of_once(clock: Clock) -> None:
    state = opened(clock, 1, counters=1, notes=1)
    counters = state.counters(0)
    first = counters.hold(b"a")[1]
    for at in range(2 * state.counter_places.count):
        clock.ns += 1
        counters.hold(b"%d" % at)
    counters.let_go(first)
    count, second = counters.hold(b"a")
    assert (count, first != second) == (1, True)


def test_a_dead_workers_counts_stay_and_what_it_held_goes() -> None:
    board = Scoreboard(4)
    one, two = board.allocate(0, 1), board.allocate(1, 1)
    mine, yours = board.state.counters(one.number), board.state.counters(two.number)
    for _ in range(3):
        mine.take(b"a", 10, 60)
        mine.hold(b"h")
    yours.hold(b"h")
    board.release(one)
    assert yours.take(b"a", 10, 60)[0] == 6
    assert yours.hold(b"h")[0] == 2
    again = board.allocate(0, 2)
    assert again.number == one.number
    successor = board.state.counters(again.number)
    assert successor.take(b"a", 10, 60)[0] == 5
    assert successor.hold(b"h")[0] == 3


def test_when_there_is_no_room_what_ends_first_is_forgotten(clock: Clock) -> None:
    state = opened(clock, 1, counters=1, notes=1)
    counters = state.counters(0)
    room = state.counter_places.count
    keys = [b"%d" % at for at in range(2 * room)]
    for at, key in enumerate(keys):
        counters.take(key, 9, 100 + at)
    assert room // 2 < state.counter_places.evicted < 1.5 * room
    alive = [key for key in keys if state.counter_places.find(key, clock.ns) is not None]
    assert len(alive) == len(keys) - state.counter_places.evicted
    assert keys[0] not in alive
    assert all(counters.take(key, 9, 100)[0] == 7 for key in alive)


def in_child(run: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            os._exit(0)
    return pid


LIMIT = 1_000


def patiently(take: Callable[[], int]) -> int:
    while True:
        with contextlib.suppress(Busy):
            return take()


@pytest.mark.parametrize("kind", ["take", "slide"])
def test_four_processes_that_are_killed_take_exactly_the_limit(kind: str) -> None:
    state = opened(time.monotonic_ns, 4)
    told = memoryview(mmap.mmap(-1, 4096)).cast("q")  # what each has got and been refused, as it says itself
    keys = [b"%d" % at for at in range(10)]
    begin = time.monotonic() + 0.05

    def count(worker: int) -> None:
        counters = state.counters(worker)
        takes = {"take": counters.take, "slide": lambda key, limit, window: counters.slide(key, limit, window, 5.0)}
        while time.monotonic() < begin:
            pass
        while True:
            for key in keys:
                left = patiently(lambda key=key: takes[kind](key, LIMIT, 1_000)[0])  # type: ignore[misc]
                told[worker if left >= 0 else worker + 4] += 1

    workers = [in_child(lambda worker=worker: count(worker)) for worker in range(4)]  # type: ignore[misc]
    kills = 0
    try:
        until = time.monotonic() + 60
        while (kills < 6 or min(told[4:8]) < LIMIT) and time.monotonic() < until:
            time.sleep(0.02)
            worker = random.randrange(4)
            os.kill(workers[worker], signal.SIGKILL)
            os.waitpid(workers[worker], 0)
            kills += 1
            workers[worker] = in_child(lambda worker=worker: count(worker))  # type: ignore[misc]
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    # Who is killed between its turn and what it says of it has got one more.
    assert LIMIT * len(keys) - kills - 4 <= sum(told[:4]) <= LIMIT * len(keys)
    assert min(told[4:8]) >= LIMIT


def test_windows_end_for_four_processes_alike() -> None:
    state = opened(time.monotonic_ns, 4)
    read, write = os.pipe()

    def count(worker: int) -> None:
        counters = state.counters(worker)
        got = 0
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            got += patiently(lambda: counters.take(b"a", 10, 0.05)[0]) >= 0
        os.write(write, b"%d\n" % got)

    began = time.monotonic()
    workers = [in_child(lambda worker=worker: count(worker)) for worker in range(4)]  # type: ignore[misc]
    for pid in workers:
        os.waitpid(pid, 0)
    windows = (time.monotonic() - began) / 0.05 + 1
    os.close(write)
    with os.fdopen(read) as told:
        got = sum(map(int, told))
    assert 10 < got <= 10 * windows


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
    for ask in (
        lambda: counters.take(b"a", 9, 60),
        lambda: counters.slide(b"a", 9, 60, 5.0),
        lambda: counters.pour(b"b", 1, 1),
        lambda: counters.hold(b"c"),
    ):
        with pytest.raises(Busy):
            ask()
    assert counters.places.unlocked == 0
    assert counters.take(b"a", 9, 60, patient=False)[0] == 8
    state.notes.put(b"a", b"note", 60)
    assert state.notes.get(b"a") == b"note"
    assert time.monotonic() - began < 1.0  # 3 ms on a quiet machine
    assert (counters.places.unlocked, state.note_places.unlocked) == (1, 1)
    assert state.counters(1).take(b"a", 9, 60)[0] == 7


def test_the_locks_of_the_dead_are_free(state: SharedState, stopped: int) -> None:
    os.kill(stopped, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, stopped, os.WEXITED | os.WNOWAIT)
    assert state.counters(0).take(b"a", 9, 60)[0] == 8


def test_a_worker_remembers_places_only_so_long(monkeypatch: pytest.MonkeyPatch, state: SharedState) -> None:
    monkeypatch.setattr("worker.shared_state.counters.MAX_KNOWN", 3)
    counters: SharedCounters = state.counters(0)
    for turn in (1, 2):
        for at in range(10):
            assert counters.take(b"%d" % at, 9, 60)[0] == 9 - turn
