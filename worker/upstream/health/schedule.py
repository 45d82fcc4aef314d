"""When to probe whom: the rounds of all checkers by their time, without I/O.

A checker has two rounds: usable targets every ``healthy.interval`` seconds, the others every ``unhealthy.interval``.
The first comes one interval after its creation; a prober that takes over begins at a random moment within it, so that
many checkers do not go in step. A round that could not be begun in time is not made up for.
"""

import heapq
import random
from dataclasses import dataclass

from worker.upstream.health.checker import Checker


@dataclass(eq=False, slots=True)
class Round:
    """What is due again and again: the targets of a checker, usable or not."""

    resource: str
    of_usable: bool
    interval: float  # seconds


class Schedule:
    """The rounds that are to come; times in seconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Round]] = []
        self._rounds: dict[str, tuple[object, list[Round]]] = {}
        self._count = 0  # breaks ties

    def put(self, checker: Checker, now: float, at_random: bool) -> None:
        """Go on with a checker's rounds, or begin new ones when what they look like has changed."""
        key = checker.schedule_key()
        known = self._rounds.get(checker.resource)
        if known is not None and known[0] == key:
            return
        active = checker.active
        rounds = [
            Round(checker.resource, True, float(active.healthy.interval)),
            Round(checker.resource, False, float(active.unhealthy.interval)),
        ]
        self._rounds[checker.resource] = key, rounds
        for entry in rounds:
            self._push(now + entry.interval * (random.random() if at_random else 1), entry)  # noqa: S311 - no secret

    def remove(self, resource: str) -> None:
        """Let there be no more rounds of a resource."""
        self._rounds.pop(resource, None)

    def due(self, now: float) -> list[Round]:
        """Return the rounds to begin now."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            at, _, entry = heapq.heappop(self._heap)
            known = self._rounds.get(entry.resource)
            if known is None or entry not in known[1]:
                continue  # of a checker that has changed or gone
            found.append(entry)
            following = at + entry.interval
            self._push(following if following > now else now + entry.interval, entry)
        return found

    def _push(self, at: float, entry: Round) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, entry))
