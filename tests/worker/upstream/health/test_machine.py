"""What reports make of a target's state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.upstream.health.machine import MAX_COUNT, NEW, TRANSITIONS, Limits, Report, State, Status, Step, advance

LIMITS = Limits(successes=2, http_failures=3, tcp_failures=2, timeouts=1)
NAMES = {"s": Report.SUCCESS, "h": Report.HTTP_FAILURE, "t": Report.TCP_FAILURE, "o": Report.TIMEOUT}
HEALTHY, MOSTLY_HEALTHY, UNHEALTHY, MOSTLY_UNHEALTHY = State

statuses = st.builds(Status, st.sampled_from(State), *[st.integers(0, MAX_COUNT)] * 4)
limits = st.builds(Limits, *[st.integers(0, 254)] * 4)
reports = st.sampled_from(Report)


def after(script: str, limits: Limits = LIMITS, status: Status = NEW) -> Status:
    for letter in script:
        status = advance(status, NAMES[letter], limits)
    return status


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", Status(HEALTHY)),
        ("s", Status(HEALTHY)),  # ignored when fully healthy
        ("h", Status(MOSTLY_HEALTHY, http_failure=1)),
        ("ht", Status(MOSTLY_HEALTHY, http_failure=1, tcp_failure=1)),  # the others keep
        ("hs", Status(MOSTLY_HEALTHY, success=1)),
        ("hss", Status(HEALTHY, success=2)),
        ("hhsh", Status(MOSTLY_HEALTHY, http_failure=1)),
        ("hhh", Status(UNHEALTHY, http_failure=3)),
        ("tt", Status(UNHEALTHY, tcp_failure=2)),
        ("o", Status(UNHEALTHY, timeout_failure=1)),
        ("ohtt", Status(UNHEALTHY, timeout_failure=1)),  # ignored when fully unhealthy
        ("os", Status(MOSTLY_UNHEALTHY, success=1)),
        ("osh", Status(MOSTLY_UNHEALTHY, http_failure=1)),
        ("oshs", Status(MOSTLY_UNHEALTHY, success=1)),
        ("osss", Status(HEALTHY, success=2)),
        ("osh" + "hh", Status(UNHEALTHY, http_failure=3)),
        ("oss" + "h", Status(MOSTLY_HEALTHY, http_failure=1)),
    ],
)
def test_reports_in_a_row(script: str, expected: Status) -> None:
    assert after(script) == expected


def test_a_limit_of_zero_does_not_count() -> None:
    assert after("hhhhhh", LIMITS._replace(http_failures=0)) == NEW
    assert after("os" + "ss", LIMITS._replace(successes=0)) == Status(UNHEALTHY, timeout_failure=1)


def test_every_state_has_a_way_to_the_other_side() -> None:
    for state, steps in TRANSITIONS.items():
        leaving = Step.FAILURES_REACHED if state.is_usable else Step.SUCCESSES_REACHED
        assert steps[leaving].is_usable is not state.is_usable


@given(statuses)
def test_a_status_fits_into_a_word(status: Status) -> None:
    assert Status.unpack(status.pack()) == status
    assert status.pack() < 1 << 34


@given(statuses, reports, limits)
def test_usability_changes_only_at_a_limit(status: Status, report: Report, limits: Limits) -> None:
    new = advance(status, report, limits)
    if new.state.is_usable is not status.state.is_usable:
        assert limits[report] > 0
        assert new[1 + report] >= limits[report]
        assert new.state.is_usable is (report is Report.SUCCESS)


@given(st.lists(reports), limits)
def test_a_target_goes_down_after_as_many_failures_of_a_kind_as_the_limit_says(
    script: list[Report], limits: Limits
) -> None:
    status, since_success = NEW, [0, 0, 0, 0]
    for report in script:
        before, status = status, advance(status, report, limits)
        if report is Report.SUCCESS:
            since_success = [0, 0, 0, 0] if limits.successes else since_success
        else:
            since_success[report] += 1
        if before.state.is_usable and not status.state.is_usable:
            assert since_success[report] >= limits[report] > 0


@given(st.lists(reports), limits.filter(lambda limits: limits.successes > 0))
def test_enough_successes_heal(script: list[Report], limits: Limits) -> None:
    status = NEW
    for report in script:
        status = advance(status, report, limits)
    for _ in range(limits.successes):
        status = advance(status, Report.SUCCESS, limits)
    assert status.state is HEALTHY
    assert status[2:] == (0, 0, 0)


@given(st.lists(reports), limits)
def test_without_failures_in_between_nothing_is_counted_twice(script: list[Report], limits: Limits) -> None:
    status = NEW
    for report in script:
        before, status = status, advance(status, report, limits)
        assert status is before or status[1 + report] == min(before[1 + report] + 1, MAX_COUNT)
        if report is Report.SUCCESS and status is not before:
            assert status[2:] == (0, 0, 0)
        if report is not Report.SUCCESS and status is not before:
            assert status.success == 0
