"""CheckRegistry: the checkers of one worker, and its view of the states that all share."""

import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from config_sync import schema
from worker.upstream.health.checker import Checker, Target, complaints, target_key
from worker.upstream.health.machine import NEW, Status
from worker.upstream.health.passive import Outbox, PassiveReports
from worker.upstream.health.table import NOWHERE, HealthTable

if TYPE_CHECKING:
    from worker.upstream.peer import Upstream

log = logging.getLogger("propylon.health")

PORTION = 300  # targets looked at in one step: less than a millisecond


class CheckRegistry:
    """Knows who uses which target, and tells balancers what the table says.

    While a changed upstream takes the place of another, both have a checker; the newer one is probed by.
    """

    def __init__(self, table: HealthTable) -> None:
        self.table = table
        self.outbox = Outbox()
        self.targets: dict[int, Target] = {}
        self.watcher: Callable[[str], None] | None = None  # is told of every resource whose checker changes
        self._checkers: dict[str, list[Checker]] = {}
        self._by_slot: dict[int, Target] = {}
        self._position = table.sequence
        self._behind: deque[Target] = deque()  # to be looked up anew

    # what the builder calls

    def use(self, resource: str, config: schema.Upstream, upstream: "Upstream") -> None:
        """Check the peers of an upstream from now on, when it has ``checks``; its balancer is told."""
        if config.checks is None or not upstream.peers:
            return
        checker = Checker(resource, config, config.checks)
        for complaint in complaints(checker.active):
            log.warning("%s: %s", resource, complaint)
        for peer in upstream.peers:
            checker.members.append((peer, self._use_target(checker, peer.host, peer.port)))
        self._checkers.setdefault(resource, []).append(checker)
        upstream.checker = checker
        upstream.passive = PassiveReports(checker, self.outbox)
        checker.bind(upstream)
        self._changed(resource)

    def _use_target(self, checker: Checker, host: str, node_port: int) -> Target:
        hostname = checker.hostname_of(host)
        port = checker.active.port or node_port
        key = target_key(checker.resource, host, node_port, port, hostname)
        target = self.targets.get(key)
        if target is None:
            target = self.targets[key] = Target(key, host, port, hostname)
            self._attach(target, self.table.find(key))
        if checker not in target.checkers:
            target.checkers.append(checker)
        return target

    def leave(self, checker: Checker) -> None:
        """Check no more for an upstream that nobody will find any more."""
        for _, target in checker.members:
            if checker in target.checkers:
                target.checkers.remove(checker)
                if not target.checkers:
                    del self.targets[target.key]
                    self._forget_slot(target)
        checkers = self._checkers[checker.resource]
        checkers.remove(checker)
        if not checkers:
            del self._checkers[checker.resource]
        self._changed(checker.resource)

    def _changed(self, resource: str) -> None:
        if self.watcher is not None:
            self.watcher(resource)

    # what others ask

    def current(self, resource: str) -> Checker | None:
        """Return the checker of a resource."""
        checkers = self._checkers.get(resource)
        return checkers[-1] if checkers else None

    def resources(self) -> list[str]:
        """Return the resources that have one."""
        return list(self._checkers)

    def __iter__(self) -> Iterator[Checker]:
        """Walk the checkers, one of each resource."""
        return iter([checkers[-1] for checkers in self._checkers.values()])

    def status_of(self, target: Target) -> Status:
        """Return a target's status now."""
        slot = self.table.find(target.key)
        return NEW if slot == NOWHERE else self.table.status_at(slot)

    # the table's news

    def refresh(self) -> bool:
        """Take over what has changed in the table, as much as fits into one step; tells whether there is more."""
        if self.table.sequence != self._position:
            slots = self.table.changed_since(self._position, PORTION)
            if slots is None:
                self._position = self.table.sequence
                self._behind = deque(self.targets.values())
            else:
                self._position += len(slots)
                self._settle([self._look_at(slot) for slot in slots])
        elif self._behind:
            portion = [self._behind.popleft() for _ in range(min(PORTION, len(self._behind)))]
            known = [target for target in portion if target.checkers]
            self._settle([target if self._attach(target, self.table.find(target.key)) else None for target in known])
        return bool(self._behind) or self.table.sequence != self._position

    def _look_at(self, slot: int) -> Target | None:
        """Look at a slot that has changed; returns its target if that became usable, or not usable."""
        key = self.table.key_at(slot)
        before = self._by_slot.get(slot)
        if before is not None and before.key != key:
            del self._by_slot[slot]
            return before if self._attach(before, NOWHERE) else None
        target = self.targets.get(key)
        return target if target is not None and self._attach(target, slot) else None

    def _attach(self, target: Target, slot: int) -> bool:
        """Connect a target with its slot, and see its state; tells whether its usability has changed."""
        if target.slot != slot:
            self._forget_slot(target)
            target.slot = slot
            if slot != NOWHERE:
                self._by_slot[slot] = target
        return target.see(NEW.state if slot == NOWHERE else self.table.state_at(slot))

    def _forget_slot(self, target: Target) -> None:
        if self._by_slot.get(target.slot) is target:
            del self._by_slot[target.slot]

    def _settle(self, flipped: list[Target | None]) -> None:
        for checker in {checker for target in flipped if target is not None for checker in target.checkers}:
            checker.tell_balancer()
