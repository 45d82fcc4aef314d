"""How long a failing slot waits."""

from worker.supervisor.respawn import LONGEST_DELAY, respawn_delay


def test_the_first_death_is_answered_at_once_and_later_ones_ever_later() -> None:
    delays = [respawn_delay(failures) for failures in range(1, 20)]
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_DELAY
