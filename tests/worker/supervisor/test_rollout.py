"""What is done to which worker, in which order, when workers are replaced."""

from worker.supervisor.orders import (
    Abandon,
    Check,
    Drain,
    Finish,
    Fork,
    Keep,
    Pause,
    Plan,
    Refork,
    Resume,
    Retire,
)
from worker.supervisor.rollout import RESUME_WAIT, Rollout, Stage

RELOAD = Plan(replace=(0, 1), check=True, grace=2, drain_wait=5, startup_timeout=60, check_timeout=30)


def checked(plan: Plan = RELOAD) -> Rollout:
    rollout = Rollout(plan)
    assert rollout.begin(0) == [Check()]
    assert rollout.checked("", 1) == [Fork(slot) for slot in (plan.replace if plan.mode == "all" else (0,))]
    return rollout


def test_slot_by_slot_after_a_canary() -> None:
    rollout = checked()
    assert rollout.due == 61
    assert rollout.ready(0, 2) == [Pause(0)]
    assert rollout.due == 4
    assert rollout.tick(3.9) == []
    assert rollout.tick(4) == [Drain(0)]
    assert rollout.ended(0, 5) == [Fork(1)]
    assert rollout.ready(1, 6) == [Drain(1)]
    assert rollout.tick(11) == []  # as long as it has been waited for
    assert rollout.stage is Stage.PROVING
    assert rollout.tick(13) == [Finish(True, "")]


def test_a_predecessor_that_has_been_waited_for_is_not_due_any_more() -> None:
    rollout = checked()
    rollout.ready(0, 2)
    rollout.tick(4)
    assert rollout.due == 9
    assert rollout.tick(9) == [Fork(1)]
    assert rollout.due == 69  # else the master would look again and again, without a pause
    assert rollout.ready(1, 10) == [Drain(1)]
    assert rollout.due == 15


def test_all_at_once() -> None:
    rollout = checked(Plan(replace=(0, 1), check=True, mode="all", grace=2))
    assert rollout.ready(1, 2) == []
    assert rollout.ready(0, 3) == [Pause(0), Pause(1)]
    assert rollout.tick(5) == [Drain(0), Drain(1)]
    assert rollout.tick(7) == [Finish(True, "")]


def test_without_grace_nobody_is_paused() -> None:
    for plan in (Plan(replace=(0,)), Plan(replace=(0,), mode="all")):
        rollout = Rollout(plan)
        assert rollout.begin(0) == [Fork(0)]
        assert rollout.ready(0, 1) == [Drain(0), Finish(True, "")]


def test_a_failed_check_changes_nothing() -> None:
    rollout = Rollout(RELOAD)
    rollout.begin(0)
    assert rollout.checked("listenn: unknown", 1) == [Finish(False, "listenn: unknown")]
    assert rollout.stage is Stage.OVER


def test_a_check_that_takes_too_long_has_failed() -> None:
    rollout = Rollout(RELOAD)
    rollout.begin(0)
    assert rollout.due == 30
    assert rollout.tick(29) == []
    (finish,) = rollout.tick(30)
    assert isinstance(finish, Finish)
    assert "check_timeout" in finish.reason
    assert rollout.checked("", 31) == []


def test_a_canary_that_dies_brings_its_predecessor_back() -> None:
    rollout = checked()
    rollout.ready(0, 2)
    assert rollout.died(0, "exit code 1", 3) == [Resume(0)]
    assert rollout.returned(0, 3.1) == [Finish(False, "exit code 1")]


def test_a_successor_that_is_late_is_abandoned() -> None:
    rollout = checked()
    assert rollout.tick(60) == []
    abandon, finish = rollout.tick(61)
    assert abandon == Abandon(0)
    assert isinstance(finish, Finish)
    assert "worker_startup_timeout" in finish.reason


def test_going_back_leaves_no_slot_without_a_worker() -> None:
    rollout = checked(Plan(replace=(0, 1, 2, 3), check=True, drain_wait=5, grace=0))
    rollout.ready(0, 2)
    rollout.ended(0, 2)  # slot 0: the predecessor has gone
    rollout.ready(1, 3)  # slot 1: it drains
    rollout.tick(8)
    assert rollout.died(2, "exit code 1", 9) == [Refork(0), Resume(1)]  # slot 2 was not touched, nor was slot 3
    assert rollout.stage is Stage.ROLLING_BACK
    assert rollout.returned(1, 10) == [Abandon(1)]
    assert rollout.returned(0, 11) == [Abandon(0), Finish(False, "exit code 1")]


def test_a_predecessor_that_cannot_go_on_is_replaced_by_one_like_it() -> None:
    rollout = checked(Plan(replace=(0, 1), check=True, drain_wait=5))
    rollout.ready(0, 2)
    rollout.tick(7)
    assert rollout.died(1, "killed", 8) == [Resume(0)]
    assert rollout.ended(0, 9) == [Refork(0)]
    assert rollout.returned(0, 10) == [Abandon(0), Finish(False, "killed")]


def test_a_predecessor_that_does_not_answer_is_replaced_too() -> None:
    rollout = checked(Plan(replace=(0, 1), check=True, drain_wait=5))
    rollout.ready(0, 2)
    rollout.tick(7)
    rollout.died(1, "killed", 8)
    assert rollout.due == 8 + RESUME_WAIT
    assert rollout.tick(8 + RESUME_WAIT) == [Refork(0)]


def test_a_successor_is_kept_when_no_worker_of_the_old_settings_comes_up() -> None:
    rollout = checked(Plan(replace=(0, 1), check=True))
    rollout.ready(0, 2)
    rollout.ended(0, 3)
    assert rollout.died(1, "killed", 4) == [Refork(0)]
    assert rollout.ended(0, 5) == [Keep(0), Finish(False, "killed")]


def test_a_death_while_all_is_proved_fails_the_reload() -> None:
    rollout = checked(Plan(replace=(0,), check=True, grace=2))
    rollout.ready(0, 2)
    rollout.tick(4)
    rollout.ended(0, 4)
    assert rollout.stage is Stage.PROVING
    assert rollout.died(0, "killed", 5) == [Finish(False, "killed")]  # nobody is left: it is forked again as any other


def test_slots_are_added_and_given_up_at_the_end() -> None:
    grow = Rollout(Plan(grow=(2, 3), mode="all"))
    assert grow.begin(0) == [Fork(2), Fork(3)]
    assert grow.ready(2, 1) == []
    assert grow.ready(3, 1) == [Finish(True, "")]
    shrink = Rollout(Plan(replace=(0,), retire=(1,)))
    assert shrink.begin(0) == [Fork(0)]
    assert shrink.ready(0, 1) == [Drain(0), Retire(1), Finish(True, "")]
    assert Rollout(Plan(retire=(1,))).begin(0) == [Retire(1), Finish(True, "")]


def test_added_slots_go_when_one_of_them_fails() -> None:
    grow = Rollout(Plan(grow=(2, 3), mode="all"))
    grow.begin(0)
    grow.ready(2, 1)
    assert grow.died(3, "killed", 2) == [Retire(2), Retire(3), Finish(False, "killed")]


def test_a_predecessor_that_dies_meanwhile_is_not_missed() -> None:
    rollout = checked()
    assert rollout.ended(0, 2) == []
    assert rollout.ready(0, 3) == [Fork(1)]
