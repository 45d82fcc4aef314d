"""A worker's life, as a table.

    STARTING ──► SERVING ◄──► PAUSED
        │          ▲ │          │
        │          │ ▼          │
        │        DRAINING ◄─────┘
        ▼          ▼
       ENDING ◄────┘

A paused worker accepts nobody, and serves those it has. A drain can be undone until the worker ends.
"""

from enum import Enum


class Life(Enum):
    """Where a worker stands."""

    STARTING = "starting"
    SERVING = "serving"
    PAUSED = "paused"
    DRAINING = "draining"
    ENDING = "ending"


class Turn(Enum):
    """What changes it."""

    READY = "ready"
    PAUSE = "pause"
    RESUME = "resume"
    DRAIN = "drain"
    END = "end"


TRANSITIONS: dict[Life, dict[Turn, Life]] = {
    Life.STARTING: {Turn.READY: Life.SERVING, Turn.DRAIN: Life.ENDING, Turn.END: Life.ENDING},
    Life.SERVING: {
        Turn.PAUSE: Life.PAUSED,
        Turn.RESUME: Life.SERVING,
        Turn.DRAIN: Life.DRAINING,
        Turn.END: Life.ENDING,
    },
    Life.PAUSED: {
        Turn.PAUSE: Life.PAUSED,
        Turn.RESUME: Life.SERVING,
        Turn.DRAIN: Life.DRAINING,
        Turn.END: Life.ENDING,
    },
    Life.DRAINING: {Turn.RESUME: Life.SERVING, Turn.DRAIN: Life.DRAINING, Turn.END: Life.ENDING},
    Life.ENDING: {},
}


def turned(life: Life, turn: Turn) -> Life | None:
    """Return what comes of it; None when it means nothing then, and is to be ignored."""
    return TRANSITIONS[life].get(turn)
