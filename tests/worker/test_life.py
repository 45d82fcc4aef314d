"""A worker's life: what is possible, and what is ignored."""

import pytest

from worker.life import TRANSITIONS, Life, Turn, turned


def test_a_drain_and_a_pause_are_undone() -> None:
    for turn in (Turn.PAUSE, Turn.DRAIN):
        life = turned(Life.SERVING, turn)
        assert life is not None
        assert turned(life, Turn.RESUME) is Life.SERVING


def test_who_is_not_ready_ends_at_once() -> None:
    assert turned(Life.STARTING, Turn.DRAIN) is Life.ENDING


@pytest.mark.parametrize("turn", list(Turn))
def test_nothing_follows_the_end(turn: Turn) -> None:
    assert turned(Life.ENDING, turn) is None


def test_every_life_can_end() -> None:
    assert set(TRANSITIONS) == set(Life)
    assert all(turned(life, Turn.END) is Life.ENDING for life in Life if life is not Life.ENDING)
