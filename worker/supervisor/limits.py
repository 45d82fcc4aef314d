"""Which worker has to go, and how: it hangs, it has grown too large, or it belongs to a generation too many."""

from collections.abc import Iterable
from enum import Enum

STACKS_WAIT = 1.0  # seconds that a hanging worker has to write its stacks
SPREAD = 0.1  # the limits of a worker are lower by up to this share


class Hang(Enum):
    """What to do about a worker's event loop."""

    NOTHING = "nothing"
    ASK_FOR_STACKS = "ask for its stacks"
    WAIT = "wait for them"
    KILL = "kill"


def hang_of(silence: float, limit: float, asked: float | None) -> Hang:
    """Judge a worker that was last heard of ``silence`` seconds ago, and asked for its stacks ``asked`` seconds ago."""
    if silence <= limit:
        return Hang.NOTHING
    if asked is None:
        return Hang.ASK_FOR_STACKS
    return Hang.KILL if asked >= STACKS_WAIT else Hang.WAIT


def excess_of(rss: int, requests: int, max_rss: int, max_requests: int, spread: float) -> str:
    """Tell which limit a worker is beyond, empty when none; ``spread`` is its share of the limits that does not count.

    Sizes in bytes; a limit of 0 is none.
    """
    if max_rss and rss > max_rss * (1 - spread):
        return f"max_worker_rss ({rss // 1_048_576} MiB)"
    if max_requests and requests > max_requests * (1 - spread):
        return f"max_worker_requests ({requests})"
    return ""


def surplus(generations: Iterable[int], limit: int) -> set[int]:
    """Return the oldest of these generations, beyond the ``limit`` of them that may live."""
    return set(sorted(set(generations), reverse=True)[limit:])
