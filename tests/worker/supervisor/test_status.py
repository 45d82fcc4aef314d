"""When systemd is told what."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.supervisor.signals import Phase
from worker.supervisor.status import EXTENSION, STATUS_INTERVAL, Notifier, View, longest_silence

SERVING = View(Phase.RUNNING, 7, generation=1, slots=4, ready=4, beating=4, revision=10)
STATUS = "STATUS=running, generation 1, 4 of 4 workers ready, revision 10"


def test_it_is_ready_when_all_workers_are() -> None:
    notifier = Notifier(None)
    assert notifier.lines(0.0, replace(SERVING, phase=Phase.STARTING, ready=3)) == [
        "STATUS=starting, generation 1, 3 of 4 workers ready, revision 10"
    ]
    assert notifier.lines(0.1, SERVING) == [f"READY=1\nMAINPID=7\n{STATUS}"]
    assert notifier.lines(0.2, SERVING) == []


def test_a_reload_has_a_begin_and_an_end() -> None:
    notifier = Notifier(None)
    notifier.lines(0.0, SERVING)
    begun = notifier.lines(5.0, replace(SERVING, phase=Phase.RELOADING, reloads=1))
    assert [line.split("\nSTATUS")[0] for line in begun] == ["RELOADING=1\nMONOTONIC_USEC=5000000"]
    ended = notifier.lines(6.0, replace(SERVING, generation=2, reloads=1))
    assert ended == ["READY=1\nMAINPID=7\nSTATUS=running, generation 2, 4 of 4 workers ready, revision 10"]


def test_a_reload_that_failed_before_anybody_looked_has_them_too() -> None:
    notifier = Notifier(None)
    notifier.lines(0.0, SERVING)
    lines = notifier.lines(5.0, replace(SERVING, reloads=1, failure="listn: no such\nkey"))
    assert lines == [
        "RELOADING=1\nMONOTONIC_USEC=5000000",
        f"READY=1\nMAINPID=7\n{STATUS}; the last reload failed: listn: no such key",
    ]


def test_a_reload_that_follows_another_at_once_is_told() -> None:
    notifier = Notifier(None)
    notifier.lines(0.0, SERVING)
    notifier.lines(1.0, replace(SERVING, phase=Phase.RELOADING, reloads=1))
    assert notifier.lines(2.0, replace(SERVING, phase=Phase.RELOADING, reloads=2))[0].startswith("RELOADING=1\n")


def test_a_reload_right_after_the_start_does_not_hide_that_it_is_ready() -> None:
    lines = Notifier(None).lines(1.0, replace(SERVING, phase=Phase.RELOADING, reloads=1))
    assert [line.split("=")[0] for line in lines] == ["READY", "RELOADING"]


def test_stopping_is_told_once() -> None:
    notifier = Notifier(None)
    notifier.lines(0.0, SERVING)
    stopping = replace(SERVING, phase=Phase.STOPPING)
    assert notifier.lines(1.0, stopping)[0].startswith("STOPPING=1\nSTATUS=stopping")
    assert notifier.lines(3.0, stopping) == []


def test_the_text_changes_at_most_once_a_second() -> None:
    notifier = Notifier(None)
    notifier.lines(0.0, SERVING)
    told = [
        (at / 10, line) for at in range(1, 51) for line in notifier.lines(at / 10, replace(SERVING, revision=10 + at))
    ]
    times = [time for time, _ in told]
    assert 4 <= len(times) <= 5
    assert all(later - earlier >= STATUS_INTERVAL - 1e-9 for earlier, later in itertools.pairwise(times))


def test_the_watchdog_is_patted_while_more_than_half_of_the_workers_beat() -> None:
    notifier = Notifier(4.0)

    def patted(now: float, view: View) -> bool:
        return "WATCHDOG=1" in notifier.lines(now, view)

    assert patted(0.0, SERVING)
    assert not patted(1.0, SERVING)
    assert notifier.due(1.0) == 1.0
    assert patted(2.0, replace(SERVING, beating=3))
    assert not patted(4.0, replace(SERVING, beating=2))
    assert not patted(60.0, replace(SERVING, phase=Phase.RELOADING, beating=2))
    assert patted(61.0, replace(SERVING, beating=0, ready=0, is_resting=True))
    assert patted(64.0, replace(SERVING, beating=0, phase=Phase.STOPPING))


def test_whoever_speaks_after_another_says_all_of_it_at_once() -> None:
    notifier = Notifier(10.0)
    notifier.lines(0.0, SERVING)
    assert notifier.lines(1.0, SERVING) == []
    notifier.say_again()
    assert notifier.due(1.0) == 0.0
    assert notifier.lines(1.0, SERVING) == [f"READY=1\nMAINPID=7\n{STATUS}", "WATCHDOG=1"]
    unwatched = Notifier(None)
    unwatched.say_again()
    assert not any("WATCHDOG" in line for line in unwatched.lines(0.0, SERVING))


def test_nobody_is_patted_without_a_watchdog() -> None:
    assert Notifier(None).due(0.0) == math.inf
    assert not any("WATCHDOG" in line for line in Notifier(None).lines(0.0, SERVING))


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RELOADING, Phase.STOPPING])
def test_more_time_is_asked_for_until_the_phase_must_be_over(phase: Phase) -> None:
    notifier = Notifier(None)
    view = replace(SERVING, phase=phase, until=60.0)
    asked = [
        (now, int(line.partition("=")[2]) / 1e6)
        for now in range(120)
        for line in notifier.lines(float(now), view)
        if line.startswith("EXTEND_TIMEOUT_USEC")
    ]
    assert asked[0] == (5, EXTENSION)
    assert asked[-1][0] == 55
    assert all(later - earlier < seconds for (earlier, seconds), (later, _) in itertools.pairwise(asked))


def test_a_reload_that_serves_nobody_gets_no_more_time() -> None:
    notifier = Notifier(None)
    view = replace(SERVING, phase=Phase.RELOADING, beating=1)
    assert not any("EXTEND" in line for now in range(60) for line in notifier.lines(float(now), view))


def test_a_worker_is_silent_before_the_watchdog_bites() -> None:
    assert longest_silence(None, 30.0) == 30.0
    assert longest_silence(60.0, 10.0) == 10.0
    assert longest_silence(20.0, 30.0) == 10.0
    assert longest_silence(1.0, 30.0) == 3.0


PHASES = st.lists(st.tuples(st.sampled_from(list(Phase)), st.integers(0, 2)), max_size=30)


@given(PHASES)
def test_what_systemd_believes_is_true(steps: list[tuple[Phase, int]]) -> None:
    notifier, reloads, believed, announced = Notifier(None), 0, "starting", 0
    for now, (phase, more) in enumerate(steps):
        if phase is Phase.STARTING and believed != "starting":
            continue  # a master starts once
        if believed == "stopping" and phase is not Phase.STOPPING:
            continue
        reloads += more
        for line in notifier.lines(float(now), replace(SERVING, phase=phase, reloads=reloads)):
            key = line.partition("=")[0]
            believed = {"READY": "running", "RELOADING": "reloading", "STOPPING": "stopping"}.get(key, believed)
            announced += key == "RELOADING"
        if phase is not Phase.STARTING:
            assert believed == phase.value
        if phase is Phase.RUNNING and reloads:
            assert announced
