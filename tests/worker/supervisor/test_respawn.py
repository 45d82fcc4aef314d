"""How long a failing slot waits."""

from hypothesis import given
from hypothesis import strategies as st

from worker.supervisor.respawn import JITTER, LONGEST_DELAY, QUICK_DEATH, failures_in_a_row, respawn_delay


def test_the_first_death_is_answered_at_once_and_later_ones_ever_later() -> None:
    delays = [respawn_delay(failures, lambda: 0.5) for failures in range(1, 20)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY


@given(st.integers(2, 100), st.floats(0, 1))
def test_chance_moves_a_delay_by_a_share_of_it(failures: int, chosen: float) -> None:
    middle = respawn_delay(failures, lambda: 0.5)
    assert abs(respawn_delay(failures, lambda: chosen) - middle) <= JITTER * middle * 1.001


def test_only_quick_deaths_count_in_a_row() -> None:
    assert failures_in_a_row(0, 0.1) == 1
    assert failures_in_a_row(4, QUICK_DEATH - 0.1) == 5
    assert failures_in_a_row(4, QUICK_DEATH) == 1
