"""The order in which members are asked."""

from hypothesis import given
from hypothesis import strategies as st

from config_sync.etcd.endpoints import Endpoints

MARK = 10.0


def test_workers_begin_with_different_members() -> None:
    assert [Endpoints(3, MARK, lambda: x).current for x in (0.0, 0.34, 0.67, 0.999, 1.0)] == [0, 1, 2, 2, 2]  # noqa: B023


def test_those_that_failed_are_passed_over_while_they_are_marked() -> None:
    endpoints = Endpoints(3, MARK, lambda: 0.0)
    endpoints.failed(0.0)
    assert endpoints.current == 1
    endpoints.failed(5.0)
    assert endpoints.current == 2
    endpoints.failed(9.0)
    assert endpoints.current == 0, "all are marked: the one marked for the longest time"
    endpoints.failed(12.0)
    assert endpoints.current == 1
    endpoints.failed(19.5)  # 0 until 22, 2 until 19
    assert endpoints.current == 2


def test_success_takes_the_mark_away() -> None:
    endpoints = Endpoints(2, MARK, lambda: 0.0)
    endpoints.failed(0.0)
    endpoints.failed(1.0)
    assert endpoints.current == 0
    endpoints.succeeded()
    endpoints.failed(2.0)
    assert endpoints.current == 1
    endpoints.succeeded()
    endpoints.failed(3.0)
    assert endpoints.current == 0


def test_a_single_member_is_asked_again() -> None:
    endpoints = Endpoints(1, MARK, lambda: 0.7)
    for now in (0.0, 1.0, 50.0):
        endpoints.failed(now)
        assert endpoints.current == 0


@given(st.integers(2, 7), st.floats(0, 1), st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=40))
def test_nobody_is_asked_again_at_once_and_nobody_is_forgotten(
    count: int, chosen: float, history: list[tuple[float, bool]]
) -> None:
    endpoints, now = Endpoints(count, MARK, lambda: chosen), 0.0
    for waited, works in history:
        now += waited
        before = endpoints.current
        if works:
            endpoints.succeeded()
        endpoints.failed(now)
        assert endpoints.current != before
    seen = {endpoints.current}
    for _ in range(2 * count):
        endpoints.failed(now)
        seen.add(endpoints.current)
    assert seen == set(range(count))
