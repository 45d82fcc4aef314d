"""When sockets that are given up can be closed."""

from hypothesis import given
from hypothesis import strategies as st

from worker.supervisor.retirement import LONGEST_EMPTYING, RELEASING, SETTLING, Retirement, Stage


def test_handshakes_finish_then_the_queue_empties_then_all_let_go() -> None:
    retirement = Retirement(100.0)
    assert retirement.look(100.0 + SETTLING / 2, False) is None
    assert retirement.look(100.0 + SETTLING, True) is None
    assert retirement.stage is Stage.EMPTYING
    assert retirement.look(102.0, True) is None
    assert retirement.look(103.0, False) is Stage.RELEASED
    assert retirement.look(103.0 + RELEASING / 2, False) is None
    assert retirement.look(103.0 + RELEASING, False) is Stage.OVER


def test_what_nobody_accepts_is_not_waited_for_without_end() -> None:
    retirement = Retirement(0.0)
    retirement.look(SETTLING, True)
    assert retirement.look(SETTLING + LONGEST_EMPTYING, True) is Stage.RELEASED


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=50))
def test_it_never_ends_while_somebody_waits_and_always_looks_when_it_is_due(steps: list[tuple[float, bool]]) -> None:
    now = 0.0
    retirement = Retirement(now)
    for passed, is_waited_on in steps:
        now += passed
        is_due = now >= retirement.due
        stage = retirement.look(now, is_waited_on)
        assert stage is None or is_due
        if stage is Stage.RELEASED:
            assert now >= SETTLING
            assert not is_waited_on or now >= SETTLING + LONGEST_EMPTYING
        if stage is Stage.OVER:
            return
        assert retirement.due > now
