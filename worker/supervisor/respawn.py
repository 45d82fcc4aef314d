"""When a slot whose worker has died is filled again."""

QUICK_DEATH = 10.0  # a worker that dies younger is not re-forked at once a second time
LONGEST_DELAY = 30.0


def respawn_delay(failures: int) -> float:
    """Return how long to wait, in seconds, before a slot is filled again that has failed so often in a row."""
    return 0.0 if failures <= 1 else float(min(LONGEST_DELAY, 0.1 * 2 ** min(failures, 12)))
