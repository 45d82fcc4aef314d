"""What a rollout is to do (its Plan), and what it has done (its orders); see ``rollout``."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Check:
    """See whether new workers could live."""


@dataclass(frozen=True)
class Fork:
    """Bring up a successor with the new settings."""

    slot: int


@dataclass(frozen=True)
class Pause:
    """Let the predecessor accept nobody."""

    slot: int


@dataclass(frozen=True)
class Resume:
    """Let the predecessor be as before, and say so."""

    slot: int


@dataclass(frozen=True)
class Drain:
    """Let the predecessor finish and end."""

    slot: int


@dataclass(frozen=True)
class Refork:
    """Bring up a worker with the old settings in the predecessor's place."""

    slot: int


@dataclass(frozen=True)
class Abandon:
    """Let the successor finish and end; the slot is the predecessor's again."""

    slot: int


@dataclass(frozen=True)
class Keep:
    """Let the slot be the successor's although the rollout has failed; what is in the predecessor's place may go."""

    slot: int


@dataclass(frozen=True)
class Retire:
    """Give the slot up."""

    slot: int


@dataclass(frozen=True)
class Finish:
    """It is over."""

    ok: bool
    reason: str


Order = Check | Fork | Pause | Resume | Drain | Refork | Abandon | Keep | Retire | Finish


@dataclass(frozen=True)
class Plan:
    """What a rollout is to do; times in seconds."""

    replace: tuple[int, ...] = ()  # slots whose workers get a successor
    grow: tuple[int, ...] = ()  # slots that are added
    retire: tuple[int, ...] = ()  # slots that are given up, at the very end
    mode: Literal["slot", "all"] = "slot"
    check: bool = False  # first
    grace: float = 0.0  # successors must live so long before their predecessors leave, and before all is well
    drain_wait: float = 0.0  # how long a predecessor is waited for before the next slot's turn
    startup_timeout: float = 60.0
    check_timeout: float = 30.0
