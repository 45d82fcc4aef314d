"""Who has to go, and how."""

import pytest

from worker.supervisor.limits import STACKS_WAIT, Hang, excess_of, hang_of, surplus

MIB = 1_048_576


@pytest.mark.parametrize(
    ("silence", "asked", "hang"),
    [
        (30.0, None, Hang.NOTHING),
        (30.1, None, Hang.ASK_FOR_STACKS),
        (30.1, 0.0, Hang.WAIT),
        (31.1, STACKS_WAIT, Hang.KILL),
        (0.1, STACKS_WAIT, Hang.NOTHING),
    ],
)
def test_a_worker_that_hangs_first_shows_its_stacks(silence: float, asked: float | None, hang: Hang) -> None:
    assert hang_of(silence, 30.0, asked) is hang


@pytest.mark.parametrize(
    ("rss", "requests", "limits", "spread", "excess"),
    [
        (500 * MIB, 10**9, (0, 0), 0.0, ""),
        (500 * MIB, 0, (500 * MIB, 0), 0.0, ""),
        (501 * MIB, 0, (500 * MIB, 0), 0.0, "max_worker_rss (501 MiB)"),
        (460 * MIB, 0, (500 * MIB, 0), 0.1, "max_worker_rss (460 MiB)"),
        (0, 1000, (0, 1000), 0.0, ""),
        (0, 950, (0, 1000), 0.1, "max_worker_requests (950)"),
    ],
)
def test_a_worker_is_beyond_a_limit(
    rss: int, requests: int, limits: tuple[int, int], spread: float, excess: str
) -> None:
    assert excess_of(rss, requests, *limits, spread) == excess


def test_the_oldest_generations_are_too_many() -> None:
    assert surplus([3, 3, 5, 4, 7, 4], 3) == {3}
    assert surplus([3, 5], 2) == set()
    assert surplus([], 1) == set()
