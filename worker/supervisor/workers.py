"""Workers: the slots and all who live in them. What is to happen is decided elsewhere; this forks, tells and buries."""

import contextlib
import logging
import math
import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from worker.scoreboard import Scoreboard
from worker.supervisor.adoption import Give, adoptions
from worker.supervisor.child import Child, Slot
from worker.supervisor.fdstore import Place
from worker.supervisor.limits import SPREAD
from worker.supervisor.listener_groups import LetAddressGo, LetSlotGo, ListenerGroups, SlotClosed
from worker.supervisor.listeners import Listeners, bind_missing, close_listeners, open_api
from worker.supervisor.messages import (
    Adopt,
    Release,
    listening_name,
)
from worker.supervisor.respawn import HURRY, failures_in_a_row, is_in_need, respawn_delay
from worker.supervisor.spawn import WorkerMain, fork_worker
from worker.supervisor.template import Templates

log = logging.getLogger("propylon.master")


class Workers:
    """Every process the master has forked to serve, by slots."""

    def __init__(self, settings: Settings, worker_main: WorkerMain, prepare: Callable[[], None] | None = None) -> None:
        """Begin without any; ``prepare`` imports what ``worker_main`` needs, and without it there is no template."""
        self.settings = settings  # those in force
        self.scoreboard = Scoreboard()
        self.slots: list[Slot] = []
        self.given_up: list[Slot] = []  # until they have neither sockets nor workers
        self.groups = ListenerGroups()
        self.own_sockets: Callable[[], list[socket.socket]] = list  # of the master, which no child must keep
        self.revision_before: Callable[[int], int] = lambda _: 0  # that a master before us had of a store
        self._worker_main = worker_main
        self.templates = Templates(self.scoreboard, lambda: self.sockets_but([]), worker_main, prepare)
        self._hurried_at = -math.inf  # when a slot was last, or is next, filled before its time

    def everyone(self) -> Iterator[Child]:
        """Return all children."""
        return (child for slot in (*self.slots, *self.given_up) for child in slot.children())

    def find(self, pid: int) -> tuple[Slot, Child] | None:
        """Return who has this pid, and where he lives."""
        for slot in (*self.slots, *self.given_up):
            for child in slot.children():
                if child.pid == pid:
                    return slot, child
        return None

    # slots and their sockets

    def open(self, settings: Settings, count: int) -> None:
        """Open what is missing so that ``count`` slots listen on all addresses of the settings; all or nothing.

        Slots that are added take the places of those given up. What is added later than the first slots gets
        connections when there are workers for it.

        Raises:
            SettingsError: an address cannot be had.
        """
        spare = {slot.number: slot for slot in self.given_up}
        added = [spare.get(number) or Slot(number, []) for number in range(len(self.slots), count)]
        slots = [*self.slots[:count], *added]
        opened: list[tuple[Slot, Listeners]] = []
        try:
            for slot in slots:
                siblings = [each.listeners for each in (*self.slots, *added)]
                opened.append((slot, bind_missing(slot.listeners, settings.addresses(), siblings)))
            for slot, listeners in opened:
                self._listen(slot, listeners, settings.backlog)
            apis = self._open_apis(settings, slots)
        except SettingsError:
            for slot, listeners in opened:
                for address, _ in listeners:
                    self.groups.remove(slot.number, address)
                close_listeners(listeners)
            raise
        for slot, listeners in (*opened, *apis):
            slot.listeners += listeners
        self.slots += added
        for slot in added:
            self._revive(slot)

    def _listen(self, slot: Slot, listeners: Listeners, backlog: int) -> None:
        try:
            self.groups.add(slot.number, listeners, backlog, is_open=not self.slots)
        except OSError as error:
            names = ", ".join(str(address) for address, _ in listeners)
            raise SettingsError(f"listen: cannot listen on {names}: {error.strerror}") from error

    def _open_apis(self, settings: Settings, slots: list[Slot]) -> list[tuple[Slot, Listeners]]:
        """Give each of these slots copies of the sockets that all share, as far as it has none."""
        given: list[tuple[Slot, Listeners]] = []
        for address in settings.api_addresses():
            lacking = [slot for slot in slots if all(found != address for found, _ in slot.listeners)]
            for slot in lacking:
                present = [each.listeners for each in self.slots] + [listeners for _, listeners in given]
                try:
                    given.append((slot, [(address, open_api(address, present, settings.backlog))]))
                except SettingsError as error:
                    if settings.is_optional(address):
                        log.warning("metrics are not served: %s", error)
                        break
                    for _, listeners in given:
                        close_listeners(listeners)
                    reason = str(error).removeprefix("listen: ")
                    raise SettingsError(f"{settings.key_of(address)}: {reason}; choose another, or none") from error
        return given

    def begin_with(self, listeners: Sequence[Listeners], settings: Settings, count: int) -> None:
        """Take the sockets that the master was born with, by slots; those beyond ``count`` are adopted."""
        slots = [Slot(number, each) for number, each in enumerate(listeners)]
        self.slots, self.given_up = slots[:count], slots[count:]
        own = settings.api_addresses()
        for slot in slots:
            shared = [listener for listener in slot.listeners if listener[0] not in own]
            self.groups.add(slot.number, shared, settings.backlog, is_open=True)

    def places(self) -> list[Place]:
        """Return the sockets that are to survive the master."""
        return [
            (slot.number, address, sock) for slot in (*self.slots, *self.given_up) for address, sock in slot.listeners
        ]

    def close_unused(self) -> None:
        """Give up the addresses that the settings in force do not have."""
        now = time.monotonic()
        wanted = {*self.settings.addresses(), *self.settings.api_addresses()}
        for slot in (*self.slots, *self.given_up):
            for address, sock in [listener for listener in slot.listeners if listener[0] not in wanted]:
                slot.listeners.remove((address, sock))
                if address in self.groups:
                    self.groups.retire_address(address, now)
                elif sock not in self.groups.sockets():
                    sock.close()
        self.settle_adoptions()

    def give_up(self, slot: Slot, seconds: float) -> None:
        """Let the workers of a slot leave; one that accepts goes on until nobody waits for it."""
        self.slots.remove(slot)
        self.given_up.append(slot)
        slot.respawn_at = None
        is_steered = self.groups.retire_slot(slot.number, time.monotonic())
        workers = [child for child in (slot.worker, slot.successor) if child is not None]
        slot.worker = next((child for child in workers if is_steered and child.serves), None)
        slot.successor = None
        self._retire_workers(slot, [child for child in workers if child is not slot.worker], seconds)

    def _retire_workers(self, slot: Slot, leaving: Iterable[Child], seconds: float) -> None:
        for child in leaving:
            slot.retired.append(child)
            child.drain("reload", seconds)
        self.settle_adoptions()
        self.release_retired(slot)

    def _revive(self, slot: Slot) -> None:
        """Have a slot again that was given up; until it has a new worker another one accepts what waits."""
        if slot in self.given_up:
            self.given_up.remove(slot)
        self.groups.revive_slot(slot.number)
        former, slot.worker = slot.worker, None
        if former is not None:
            self._retire_workers(slot, [former], self.settings.worker_shutdown_timeout)

    def tick(self, now: float) -> None:
        """Go on with what is given up."""
        by_number = {slot.number: slot for slot in self.given_up}
        for event in self.groups.tick(now):
            if isinstance(event, LetAddressGo):
                self._let_address_go(event.sockets)
            elif isinstance(event, LetSlotGo):
                self._let_slot_go(by_number[event.slot])
            elif isinstance(event, SlotClosed):
                slot = by_number[event.slot]
                close_listeners(
                    slot.listeners
                )  # the groups have closed theirs; copies of sockets that all share are left
                slot.listeners.clear()
                self._forget_if_empty(slot)

    def _let_address_go(self, sockets: tuple[int, ...]) -> None:
        for child in self.everyone():
            for number in (child.entry.slot, *child.adopted):
                child.tell(Release(number, sockets))

    def _let_slot_go(self, slot: Slot) -> None:
        former, slot.worker = slot.worker, None
        if former is not None:
            self._retire_workers(slot, [former], self.settings.worker_shutdown_timeout)
        for child in self.everyone():
            if slot.number in child.adopted:
                child.adopted.discard(slot.number)
                child.tell(Release(slot.number))

    def _forget_if_empty(self, slot: Slot) -> None:
        if slot in self.given_up and not slot.listeners and not slot.children():
            self.given_up.remove(slot)

    def sockets_but(self, mine: Listeners) -> list[socket.socket]:
        """Return every socket of the master but these: what a child closes."""
        kept = {id(sock) for _, sock in mine}
        own = [sock for slot in (*self.slots, *self.given_up) for _, sock in slot.listeners]
        foreign = {id(sock): sock for sock in (*own, *self.groups.sockets()) if id(sock) not in kept}
        return [
            *self.own_sockets(),
            *self.templates.sockets(),
            *(child.control for child in self.everyone()),
            *foreign.values(),
        ]

    # births and deaths

    def fork(self, slot: Slot, generation: int, settings: Settings) -> Child:
        """Fork a worker for a slot.

        Raises:
            OSError: there are too many processes, descriptors or workers that drain, or too little memory.
        """
        entry = self.scoreboard.allocate(slot.number, generation, settings.store_identity())
        alike = [child.entry for child in self.everyone() if child.entry.store == entry.store]
        minimum = max((other.revision for other in alike), default=self.revision_before(entry.store))
        own = settings.api_addresses()
        # Addresses that are going to be given up, too, until they are: somebody has to accept what waits there.
        mine = [listener for listener in slot.listeners if listener[0] in self.groups or listener[0] in own]
        try:
            child = self.templates.fork(entry, settings, mine, minimum) or fork_worker(
                entry, settings, mine, minimum, lambda: self.sockets_but(mine), self._worker_main
            )
        except OSError:
            self.scoreboard.release(entry)
            raise
        child.spread = SPREAD * random.random()  # noqa: S311 - no secret
        return child

    def fill(self, slot: Slot, generation: int, settings: Settings) -> None:
        """Fork a worker for a slot that has none, or note when to try again."""
        slot.respawn_at = None
        try:
            slot.worker = self.fork(slot, generation, settings)
        except OSError as error:
            slot.failures += 1
            delay = respawn_delay(slot.failures, random.random)
            slot.respawn_at = time.monotonic() + delay
            log.error(
                "a worker for slot %d cannot be forked: %s; trying again in %.1f s", slot.number, error.strerror, delay
            )

    def rest(self, seconds: float) -> None:
        """Let all workers finish and end, and the slots stay without any."""
        for slot in self.slots:
            slot.respawn_at = None
            if slot.worker is not None:
                slot.worker.drain("reload", seconds)
                slot.retired.append(slot.worker)
                slot.worker = None

    def bury(self, slot: Slot, child: Child) -> None:
        """Forget a child that is dead; what it has said before its end is read."""
        with contextlib.suppress(BlockingIOError):
            while not child.silent:
                self.hear(child)
        child.control.close()
        self.scoreboard.release(child.entry)
        if child is slot.worker:
            slot.worker = None
        elif child is slot.successor:
            slot.successor = None
        else:
            slot.retired.remove(child)
        self._forget_if_empty(slot)

    def schedule_respawn(self, slot: Slot, child: Child, cause: str, now: float) -> None:
        """Note when a slot whose worker has died is filled again."""
        lived = now - child.born
        slot.failures = failures_in_a_row(slot.failures, now - child.ready_at)
        delay = respawn_delay(slot.failures, random.random)
        slot.respawn_at = now + delay
        self.scoreboard.count_restart(slot.number)
        log.error("worker %d died after %.1f s: %s; forking again in %.1f s", child.pid, lived, cause, delay)

    def hurry(self, now: float) -> None:
        """When most slots wait, let the one whose turn is next be filled before its time."""
        waiting = [(slot.respawn_at, slot) for slot in self.slots if slot.respawn_at is not None]
        if not waiting or not is_in_need(len(self.slots) - len(waiting), len(self.slots)):
            return
        due, slot = min(waiting, key=lambda each: each[0])
        soon = max(now, self._hurried_at + HURRY)
        if due > soon:
            slot.respawn_at = self._hurried_at = soon

    # what is said

    def hear(self, child: Child) -> bool:
        """Read what a child says; True when that is that it serves. Raises BlockingIOError when it says nothing."""
        is_ready = child.hear()
        if is_ready:
            self.groups.open(child.entry.slot)
        return is_ready

    def release_retired(self, slot: Slot) -> None:
        """Let those who drain for good close their copies of the listening sockets."""
        for child in slot.retired:
            child.tell(Release(slot.number))

    def settle_adoptions(self) -> None:
        """See that somebody accepts for every slot."""
        needed = [slot for slot in self.given_up if self.groups.is_needed(slot.number)]
        for move in adoptions(self.slots, needed):
            number = move.slot.number
            if isinstance(move, Give):
                log.info("worker %d accepts for slot %d, too", move.child.pid, number)
                sockets = self.groups.of_slot(number)
                adopt = Adopt(number, tuple(listening_name(sock) for sock in sockets))
                if move.child.tell(adopt, sockets):
                    move.child.adopted.add(number)
            else:
                move.child.adopted.discard(number)
                move.child.tell(Release(number))
