"""The guard: which snapshots it holds back, and what lets them pass."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.guard import Guard
from config_sync.settings import GuardSettings
from config_sync.status import Held


class Times:
    """A clock, and when somebody has confirmed."""

    def __init__(self) -> None:
        self.now = 100.0
        self.confirmed = 0.0

    def guard(self, **settings: float) -> Guard:
        return Guard(GuardSettings(**settings), lambda: self.now, lambda: self.confirmed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("removes", "of", "is_held"),
    [
        (10, 10, True),
        (6, 10, True),
        (5, 10, False),  # not more than the share
        (9, 9, False),  # too few to mind
        (0, 0, False),
        (0, 1000, False),
        (501, 1000, True),
    ],
)
def test_more_than_half_of_ten_routes_or_more_are_held_back(removes: int, of: int, is_held: bool) -> None:
    held = Times().guard().held(removes, of)
    assert held == (Held(removes, of, 100.0) if is_held else None)


@given(st.integers(0, 200), st.integers(0, 200), st.floats(0.01, 1.0), st.integers(0, 100))
def test_settings_say_what_is_held_back(removes: int, of: int, share: float, least: int) -> None:
    removes = min(removes, of)
    guard = Times().guard(max_removed_share=share, min_routes=least)
    assert (guard.held(removes, of) is not None) == (of >= least and removes > share * of)


def test_a_share_of_one_holds_nothing_back() -> None:
    assert Times().guard(max_removed_share=1.0).held(1000, 1000) is None


def test_without_a_time_only_a_confirmation_lets_it_pass() -> None:
    times = Times()
    guard = times.guard()
    assert guard.held(20, 20) == Held(20, 20, 100.0)
    times.now = 1e9
    assert guard.held(19, 20) == Held(19, 20, 100.0), "it tells since when, and what would go now"
    times.confirmed = 1e9 - 1
    assert guard.held(19, 20) is None


def test_a_confirmation_of_what_was_before_is_none() -> None:
    times = Times()
    times.confirmed = 99.0
    guard = times.guard()
    assert guard.held(20, 20) is not None
    times.confirmed = 101.0
    assert guard.held(20, 20) is None
    times.now = 102.0
    assert guard.held(20, 20) == Held(20, 20, 102.0), "one confirmation lets one pass"


def test_the_time_counts_from_when_it_was_first_held_back() -> None:
    times = Times()
    guard = times.guard(hold=60.0)
    assert guard.held(20, 20) is not None
    times.now = 159.9
    assert guard.held(20, 20) is not None
    assert guard.held(0, 20) is None, "it has come back"
    times.now = 160.0
    assert guard.held(20, 20) == Held(20, 20, 160.0)
    times.now = 220.0
    assert guard.held(20, 20) is None


def test_a_confirmation_is_of_what_was_shown() -> None:
    times = Times()
    guard = times.guard()
    assert guard.held(12, 20) == Held(12, 20, 100.0)
    times.confirmed = 101.0
    times.now = 102.0
    assert guard.held(20, 20) == Held(20, 20, 102.0), "more would go"
    times.confirmed = 103.0
    assert guard.held(19, 20) is None, "less may"
