"""Prober: what the holder of the lease does. It alone writes the states.

It gives every target of its configuration a slot, probes it in rounds, and applies what probes and the requests of all
workers have shown. Targets that are no longer configured keep their slot for ``KEEP_ORPHANS`` seconds: an upstream that
is written anew, or one that another worker knew of earlier, goes on with the state it had.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable

from worker.upstream.health.checker import Checker, Target
from worker.upstream.health.lease import Lease
from worker.upstream.health.machine import MAX_COUNT, Limits, Report, State, advance
from worker.upstream.health.probe import Resolve, TlsContexts, probe
from worker.upstream.health.registry import CheckRegistry
from worker.upstream.health.schedule import Schedule
from worker.upstream.health.table import NOWHERE

log = logging.getLogger("propylon.health")

KEEP_ORPHANS = 10.0  # seconds
PORTION = 100  # targets taken on in one step: less than a millisecond
STARTED_AT_ONCE = 4  # probes begun before the loop does other things


class Lane:
    """The probes of one checker: those under way, and those that wait because ``concurrency`` are."""

    __slots__ = ("busy", "running", "waiting")

    def __init__(self) -> None:
        self.running = 0
        self.waiting: deque[Target] = deque()
        self.busy: set[int] = set()  # keys of targets waiting or under way


class Prober:
    """Probes until it is stopped; ``now`` is of the loop's clock, in seconds."""

    def __init__(
        self,
        registry: CheckRegistry,
        lease: Lease,
        workers: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
        resolve: Resolve | None = None,
        contexts: TlsContexts | None = None,
    ) -> None:
        """Take over; ``workers`` tells how many rings there may be, for ``resolve`` and ``contexts`` see ``probe``."""
        self._registry = registry
        self._table = registry.table
        self._lease = lease
        self._workers = workers
        self._loop = loop
        self._resolve = resolve
        self._contexts = contexts or TlsContexts()
        self._schedule = Schedule()
        self._slots = self._table.occupied()
        self._table.forget_journal()
        self._resources: dict[str, set[int]] = {}  # keys of the targets that each has now
        self._orphans = dict.fromkeys(self._slots, loop.time() + KEEP_ORPHANS)  # until, by key
        self._adopting = set(registry.resources())  # known from the beginning
        self._changed: OrderedDict[str, None] = OrderedDict.fromkeys(self._adopting)
        self._lanes: dict[str, Lane] = {}
        self._ready: deque[str] = deque()  # resources of the lanes that have something to begin
        self._tasks: set[asyncio.Task[Report | None]] = set()
        self._stopped = False
        registry.watcher = self._resource_changed

    def stop(self) -> None:
        """Probe no more."""
        self._stopped = True
        self._registry.watcher = None
        for task in self._tasks:
            task.cancel()

    def _resource_changed(self, resource: str) -> None:
        self._changed[resource] = None

    def tick(self, now: float) -> None:
        """Do what is due; ten times a second."""
        if not self._lease.is_mine:
            return  # somebody has taken it since it was renewed: we were stopped meanwhile
        self._take_changes(now)
        self._take_reports()
        for due in self._schedule.due(now):
            checker = self._registry.current(due.resource)
            if checker is not None:
                self._begin_round(checker, due.of_usable)
        for key in [key for key, until in self._orphans.items() if until <= now]:
            del self._orphans[key]
            self._table.remove(self._slots.pop(key))

    # who there is

    def _take_changes(self, now: float) -> None:
        handled = 0
        while self._changed and handled < PORTION:
            resource, _ = self._changed.popitem(last=False)
            handled += 1 + self._adopt(resource, now)

    def _adopt(self, resource: str, now: float) -> int:
        """Make slots and rounds what the configuration of a resource demands; returns the number of its targets."""
        checker = self._registry.current(resource)
        keys = {target.key for _, target in checker.members} if checker is not None else set()
        for key in self._resources.get(resource, set()) - keys:
            self._orphans[key] = now + KEEP_ORPHANS
        for key in keys:
            self._orphans.pop(key, None)
            if key not in self._slots:
                self._insert(key)
        if checker is None:
            self._resources.pop(resource, None)
            self._lanes.pop(resource, None)
            self._schedule.remove(resource)
        else:
            self._resources[resource] = keys
            self._schedule.put(checker, now, resource in self._adopting)
        self._adopting.discard(resource)
        return len(keys)

    def _insert(self, key: int) -> None:
        slot = self._table.insert(key)
        if slot != NOWHERE:
            self._slots[key] = slot
        else:
            target = self._registry.targets[key]
            log.error("%r is not probed and taken for healthy: there are too many targets of health checks", target)

    # probes

    def _begin_round(self, checker: Checker, of_usable: bool) -> None:
        lane = self._lanes.setdefault(checker.resource, Lane())
        for _, target in checker.members:
            slot = self._slots.get(target.key)
            if slot is None or target.key in lane.busy:
                continue
            if self._table.state_at(slot).is_usable is of_usable:
                lane.busy.add(target.key)
                lane.waiting.append(target)
        if lane.waiting:
            self._make_ready(checker.resource)

    def _make_ready(self, resource: str) -> None:
        if not self._ready:
            self._loop.call_soon(self._begin_probes)
        self._ready.append(resource)

    def _begin_probes(self) -> None:
        """Begin a few probes, one of each lane in turn, and the next ones after the loop has gone round."""
        for _ in range(min(STARTED_AT_ONCE, len(self._ready))):
            resource = self._ready.popleft()
            lane, checker = self._lanes.get(resource), self._registry.current(resource)
            if self._stopped or lane is None or checker is None or not lane.waiting:
                continue
            if lane.running < checker.active.concurrency:
                self._begin_probe(checker, lane, lane.waiting.popleft())
                if lane.waiting:
                    self._ready.append(resource)
        if self._ready:
            self._loop.call_soon(self._begin_probes)

    def _begin_probe(self, checker: Checker, lane: Lane, target: Target) -> None:
        lane.running += 1
        task = self._loop.create_task(probe(checker, target, self._contexts, self._resolve))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._probed(checker, lane, target, task))

    def _probed(self, checker: Checker, lane: Lane, target: Target, task: "asyncio.Task[Report | None]") -> None:
        self._tasks.discard(task)
        lane.running -= 1
        lane.busy.discard(target.key)
        if task.cancelled() or self._stopped:
            return
        error = task.exception()
        if error is not None:
            log.error("%s: the probe of %r failed: %s", checker.resource, target, error, exc_info=error)
        report = task.result() if error is None else None
        if report is not None and target.checkers:
            self._apply(target, checker, report, checker.probe_limits, 1, "probe")
        if lane.waiting:
            self._make_ready(checker.resource)

    # what has been shown

    def _take_reports(self) -> None:
        for worker in range(self._workers()):
            for slot, generation, report, count in self._table.ring(worker).take():
                target = self._registry.targets.get(self._table.key_at(slot))
                if target is None or self._table.generation_at(slot) != generation:
                    continue
                checker = target.checkers[-1]
                self._apply(target, checker, report, checker.request_limits, count, "request")

    def _apply(self, target: Target, checker: Checker, report: Report, limits: Limits, count: int, origin: str) -> None:
        """Let the target's status take a report, so many times."""
        slot = self._slots.get(target.key)
        if slot is None or not self._lease.is_mine:
            return
        before = status = self._table.status_at(slot)
        for _ in range(min(count, MAX_COUNT)):
            status = advance(status, report, limits)
        if status == before:
            return
        self._table.write(slot, status)
        if status.state is not before.state:
            log.log(
                level_of(before.state, status.state),
                "%s: %r is %s, was %s: %s by a %s; successes %d, http failures %d, tcp failures %d, time-outs %d",
                *(checker.resource, target, status.state.name.lower(), before.state.name.lower()),
                *(report.name.lower(), origin, *status[1:]),
            )


def level_of(before: State, after: State) -> int:
    """Return how loudly a change of state is told: what requests notice is worth a line, the rest is for debugging."""
    if before.is_usable is after.is_usable:
        return logging.DEBUG
    return logging.INFO if after.is_usable else logging.WARNING
