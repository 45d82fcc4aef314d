"""Rollout: how workers are replaced, added and given up, as decisions without processes and clocks.

A reload, a change of the number of workers, and the recycling of one worker are rollouts of different plans:

    CHECKING ──► ROLLING ──► PROVING ──► OVER
        │           └────┬──────┘          ▲
        │                ▼                 │
        │          ROLLING_BACK ───────────┤
        └──────────────────────────────────┘

Each slot goes its own way. A slot with a predecessor: OLD, its successor STARTING, then both serve (BESIDE), the
predecessor is PAUSED for the time of grace, then DRAINING, and when it has ended the successor is alone: NEW. A slot
that is added has no predecessor, and is NEW as soon as its worker is ready.

Back again: a predecessor that is paused or drains is asked to go on (RESUMING). Where it has gone, a worker of the old
settings comes up beside the successor (RETURNING), which is needed until then. At the end a slot is BACK, GONE if it
was to be added, or, when no worker of the old settings can be had, KEPT by its successor.

Nobody is told to leave before somebody else has said to be ready, so a slot that had a serving worker always has one,
unless it dies. A slot without any worker is not dealt with here: whoever carries out the orders forks a worker of the
old settings for it, as for every worker that dies; and if there is still none at the order to fork its successor, says
that the predecessor has ended.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from worker.supervisor.orders import (
    Abandon,
    Check,
    Drain,
    Finish,
    Fork,
    Keep,
    Order,
    Pause,
    Plan,
    Refork,
    Resume,
    Retire,
)

RESUME_WAIT = 5.0  # seconds that a predecessor has to say that it serves again


class Stage(Enum):
    """What a rollout is doing."""

    CHECKING = "checking"
    ROLLING = "rolling"
    PROVING = "proving"
    ROLLING_BACK = "rolling back"
    OVER = "over"


class Stand(Enum):
    """Where one slot stands."""

    OLD = "old"
    STARTING = "starting"
    BESIDE = "beside"
    PAUSED = "paused"
    DRAINING = "draining"
    NEW = "new"
    RESUMING = "resuming"
    RETURNING = "returning"
    BACK = "back"
    GONE = "gone"
    KEPT = "kept"


_HOME = frozenset({Stand.BACK, Stand.GONE, Stand.KEPT})
_TAKEN_OVER = frozenset({Stand.DRAINING, Stand.NEW})


@dataclass
class _Place:
    slot: int
    is_added: bool
    has_old: bool
    has_new: bool = False
    stand: Stand = Stand.OLD
    until: float = 0.0  # what the stand waits for must have happened, or is no longer waited for


class Rollout:
    """One rollout. Every event returns what is to be done, in this order; ``now`` is of any clock, in seconds."""

    def __init__(self, plan: Plan) -> None:
        self.stage = Stage.CHECKING
        self._plan = plan
        self._places = [
            *(_Place(slot, False, True) for slot in plan.replace),
            *(_Place(slot, True, False) for slot in plan.grow),
        ]
        self._by_slot = {place.slot: place for place in self._places}
        self._until = 0.0  # of CHECKING and PROVING
        self._now = 0.0  # of the last event
        self._reason = ""

    # events

    def begin(self, now: float) -> list[Order]:
        """Begin; once."""
        if self._plan.check:
            self._until = now + self._plan.check_timeout
            return [Check()]
        self.stage = Stage.ROLLING
        return list(self._advance(now))

    def checked(self, reason: str, now: float) -> list[Order]:
        """New workers could live, or could not: then with the reason."""
        if self.stage is not Stage.CHECKING:
            return []
        if reason:
            return self._finish(False, reason)
        self.stage = Stage.ROLLING
        return list(self._advance(now))

    def ready(self, slot: int, now: float) -> list[Order]:
        """A successor serves."""
        place = self._by_slot[slot]
        if place.stand is Stand.STARTING:
            place.stand = Stand.BESIDE if place.has_old else Stand.NEW
        return list(self._advance(now))

    def died(self, slot: int, reason: str, now: float) -> list[Order]:
        """A successor has died, or could not be forked."""
        place = self._by_slot[slot]
        place.has_new = False
        if self.stage in (Stage.ROLLING, Stage.PROVING):
            return self.fail(reason, now)
        if place.stand is Stand.RETURNING:
            place.stand = Stand.BACK
        return list(self._advance(now))

    def returned(self, slot: int, now: float) -> list[Order]:
        """A predecessor serves again, or a worker of the old settings in its place."""
        place = self._by_slot[slot]
        if place.stand in (Stand.RESUMING, Stand.RETURNING):
            return [*self._go_back(place), *self._advance(now)]
        return []

    def ended(self, slot: int, now: float) -> list[Order]:
        """A predecessor has died or ended, or the worker in its place has, or could not be forked."""
        place = self._by_slot[slot]
        if place.stand is Stand.OLD:
            return []
        place.has_old = False
        orders: list[Order] = []
        if place.stand in (Stand.BESIDE, Stand.PAUSED, Stand.DRAINING):
            place.stand = Stand.NEW
        elif place.stand is Stand.RESUMING:
            orders += self._return(place, now)
        elif place.stand is Stand.RETURNING:
            orders += self._keep(place)
        return [*orders, *self._advance(now)]

    def tick(self, now: float) -> list[Order]:
        """Time has passed."""
        return list(self._advance(now))

    def fail(self, reason: str, now: float) -> list[Order]:
        """Go back to how it was."""
        if self.stage not in (Stage.ROLLING, Stage.PROVING):
            return []
        self.stage = Stage.ROLLING_BACK
        self._reason = reason
        orders = [order for place in self._places for order in self._undo(place, now)]
        return [*orders, *self._advance(now)]

    @property
    def due(self) -> float | None:
        """When ``tick`` has something to do at the latest; None: not before the next event."""
        if self.stage in (Stage.CHECKING, Stage.PROVING):
            return self._until
        waiting = (Stand.STARTING, Stand.PAUSED, Stand.DRAINING, Stand.RESUMING, Stand.RETURNING)
        times = [place.until for place in self._places if place.stand in waiting]
        return min((time for time in times if time > self._now), default=None)  # what was to be done by now is done

    # forward

    def _advance(self, now: float) -> Iterator[Order]:
        """Do what can be done now."""
        self._now = now
        if self.stage is Stage.CHECKING:
            if now >= self._until:
                yield from self._finish(False, "the check of the new settings took longer than reload.check_timeout")
        elif self.stage is Stage.ROLLING:
            late = [place for place in self._places if place.stand is Stand.STARTING and now >= place.until]
            if late:
                yield from self.fail(f"slot {late[0].slot} had no worker ready within worker_startup_timeout", now)
            else:
                yield from self._roll(now)
        elif self.stage is Stage.PROVING:
            if now >= self._until:
                yield from (Retire(slot) for slot in self._plan.retire)
                yield from self._finish(True, "")
        elif self.stage is Stage.ROLLING_BACK:
            yield from self._advance_back(now)

    def _roll(self, now: float) -> Iterator[Order]:
        if self._plan.mode == "all":
            yield from self._roll_all(now)
            is_done = all(place.stand in _TAKEN_OVER for place in self._places)
        else:
            is_done = True
            for place in self._places:
                yield from self._roll_one(place, now)
                if not self._is_past(place, now):
                    is_done = False
                    break
        if is_done:
            self.stage = Stage.PROVING
            self._until = now + self._plan.grace
            yield from self._advance(now)

    def _roll_one(self, place: _Place, now: float) -> Iterator[Order]:
        if place.stand is Stand.OLD:
            yield self._fork(place, now)
        elif place.stand is Stand.BESIDE:
            is_canary = place is self._places[0]
            yield self._pause(place, now) if is_canary and self._plan.grace else self._drain(place, now)
        elif place.stand is Stand.PAUSED and now >= place.until:
            yield self._drain(place, now)

    def _is_past(self, place: _Place, now: float) -> bool:
        return place.stand is Stand.NEW or (place.stand is Stand.DRAINING and now >= place.until)

    def _roll_all(self, now: float) -> Iterator[Order]:
        stands = {place.stand for place in self._places}
        if Stand.OLD in stands:
            yield from (self._fork(place, now) for place in self._places if place.stand is Stand.OLD)
        elif Stand.STARTING not in stands:
            for place in self._places:
                if place.stand is Stand.BESIDE and self._plan.grace:
                    yield self._pause(place, now)
                elif place.stand is Stand.BESIDE or (place.stand is Stand.PAUSED and now >= place.until):
                    yield self._drain(place, now)

    def _fork(self, place: _Place, now: float) -> Order:
        place.stand, place.has_new, place.until = Stand.STARTING, True, now + self._plan.startup_timeout
        return Fork(place.slot)

    def _pause(self, place: _Place, now: float) -> Order:
        place.stand, place.until = Stand.PAUSED, now + self._plan.grace
        return Pause(place.slot)

    def _drain(self, place: _Place, now: float) -> Order:
        place.stand, place.until = Stand.DRAINING, now + self._plan.drain_wait
        return Drain(place.slot)

    # back

    def _undo(self, place: _Place, now: float) -> Iterator[Order]:
        stand = place.stand
        if place.is_added:
            place.stand = Stand.GONE
            if stand is not Stand.OLD:
                yield Retire(place.slot)
        elif stand is Stand.OLD:
            place.stand = Stand.BACK
        elif stand in (Stand.PAUSED, Stand.DRAINING):
            place.stand, place.until = Stand.RESUMING, now + RESUME_WAIT
            yield Resume(place.slot)
        elif stand is Stand.NEW:
            yield from self._return(place, now)
        else:
            yield from self._go_back(place)

    def _advance_back(self, now: float) -> Iterator[Order]:
        for place in self._places:
            if now >= place.until:
                if place.stand is Stand.RESUMING:
                    yield from self._return(place, now)
                elif place.stand is Stand.RETURNING:
                    yield from self._keep(place)
        if all(place.stand in _HOME for place in self._places):
            yield from self._finish(False, self._reason)

    def _return(self, place: _Place, now: float) -> Iterator[Order]:
        """Replace a successor that serves by a worker of the old settings; one that is dead is replaced anyway."""
        if not place.has_new and not place.has_old:
            place.stand = Stand.BACK
            return
        place.stand, place.until = Stand.RETURNING, now + self._plan.startup_timeout
        place.has_old = True
        yield Refork(place.slot)

    def _go_back(self, place: _Place) -> Iterator[Order]:
        place.stand = Stand.BACK
        if place.has_new:
            yield Abandon(place.slot)

    def _keep(self, place: _Place) -> Iterator[Order]:
        if place.has_new:
            place.stand = Stand.KEPT
            yield Keep(place.slot)
        else:
            place.stand = Stand.BACK

    def _finish(self, ok: bool, reason: str) -> list[Order]:
        self.stage = Stage.OVER
        return [Finish(ok, reason)]
