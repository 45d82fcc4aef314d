"""What came of a scenario."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec

from benchmarks.reload.tally import Summary


@dataclass(frozen=True)
class Limits:
    """When a scenario ends: after so many rounds, or seconds."""

    rounds: int
    seconds: float = math.inf


@dataclass
class Outcome:
    """The result; it is good when ``complaints`` is empty."""

    summary: Summary
    complaints: list[str]
    rounds: int  # reloads, writes or kills
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """Return it as JSON knows it, without the circumstances of every failure."""
        codes = Counter(str(closing.code) for closing in self.summary.closings)
        return {
            "rounds": self.rounds,
            "seconds": round(self.seconds, 1),
            "answered": self.summary.answered(),
            "failed": self.summary.failed(),
            "clients": msgspec.to_builtins(self.summary.clients),
            "websocket_messages": self.summary.messages,
            "websockets_closed_by_the_gateway": dict(codes),
            "complaints": self.complaints,
            **{name: round(value, 3) if type(value) is float else value for name, value in self.figures.items()},
        }
