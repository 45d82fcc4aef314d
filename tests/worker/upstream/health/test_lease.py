"""One holder at a time, and the next one soon."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from config_sync.relay.election import Lock
from worker.upstream.health.lease import LAPSE, Lease
from worker.upstream.health.table import HealthTable

SECOND = 1_000_000_000
LATER = int((LAPSE + 0.1) * SECOND)


class Free:
    """A lock that nobody else has."""

    def take(self) -> bool:
        return True

    def release(self) -> None:
        pass


def test_the_first_to_ask_holds_it_as_long_as_it_renews() -> None:
    table = HealthTable(2)
    one, two = Lease(table, 0, Free()), Lease(table, 1, Free())
    for now in range(SECOND, 10 * SECOND, SECOND // 2):
        assert one.keep(now)
        assert not two.keep(now)
    assert one.is_mine
    assert not two.is_mine


def test_it_lapses_and_the_former_holder_sees_that() -> None:
    table = HealthTable(2)
    one, two = Lease(table, 0, Free()), Lease(table, 1, Free())
    assert one.keep(SECOND)
    assert two.keep(SECOND + LATER)
    assert not one.is_mine
    assert not one.keep(SECOND + LATER)
    assert two.keep(SECOND + LATER)


def test_given_up_it_is_free_at_once() -> None:
    table = HealthTable(2)
    one, two = Lease(table, 0, Free()), Lease(table, 1, Free())
    assert one.keep(SECOND)
    one.give_up()
    assert not one.is_mine
    assert two.keep(SECOND)
    one.give_up()
    assert two.is_mine


def test_a_successor_with_the_same_number_is_somebody_else() -> None:
    table = HealthTable(1)
    assert Lease(table, 0, Free()).keep(SECOND)
    successor = Lease(table, 0, Free())
    assert not successor.is_mine
    assert not successor.keep(SECOND)
    assert successor.keep(SECOND + LATER)


def test_only_the_one_with_the_lock_takes_it(tmp_path: Path) -> None:
    table = HealthTable(2)
    held = Lock(tmp_path / "lock")
    assert held.take()
    lease = Lease(table, 0, Lock(tmp_path / "lock"))
    assert not lease.keep(SECOND)
    held.release()
    assert lease.keep(SECOND)
    other = Lock(tmp_path / "lock")
    assert other.take()
    other.release()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, LATER), st.booleans())))
def test_there_is_never_a_second_holder(script: list[tuple[int, int, bool]]) -> None:
    table = HealthTable(4)
    leases = [Lease(table, worker, Free()) for worker in range(4)]
    now = SECOND
    for worker, pause, gives_up in script:
        now += pause
        if gives_up:
            leases[worker].give_up()
        else:
            leases[worker].keep(now)
        assert sum(lease.is_mine for lease in leases) <= 1
