"""When a slot whose worker has died is filled again."""

from collections.abc import Callable

# Seconds of serving; who dies sooner, or before, is not re-forked at once a second time. It is short: one that somebody
# kills now and then has to be back at once.
QUICK_DEATH = 0.25
LONGEST_DELAY = 30.0
HURRY = 1.0  # seconds between two forks that do not wait for their time
JITTER = 0.25  # by how much of it a delay is longer or shorter, by chance: workers that die together come back apart


def failures_in_a_row(failures: int, served: float) -> int:
    """Count a death in, of a worker that has served for so many seconds."""
    return failures + 1 if served < QUICK_DEATH else 1


def respawn_delay(failures: int, choose: Callable[[], float]) -> float:
    """Return how long to wait, in seconds, before a slot is filled again that has failed so often in a row.

    ``choose`` gives numbers from 0 to 1.
    """
    if failures <= 1:
        return 0.0
    delay = min(LONGEST_DELAY, 0.1 * 2 ** min(failures, 12))
    return float(delay * (1 + JITTER * (2 * choose() - 1)))


def is_in_need(filled: int, slots: int) -> bool:
    """Tell whether so many slots wait that one of them is to be filled before its time."""
    return 2 * filled < slots
