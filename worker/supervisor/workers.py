"""Workers: the slots and all who live in them. What is to happen is decided elsewhere; this forks, tells and buries."""

import contextlib
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from worker.observability.stacks import DUMP_SIGNAL
from worker.scoreboard import Scoreboard
from worker.supervisor.adoption import Give, adoptions
from worker.supervisor.child import Child, Slot
from worker.supervisor.fdstore import Place
from worker.supervisor.limits import SPREAD, Hang, hang_of
from worker.supervisor.listeners import Listeners, all_addresses, close_listeners, open_missing
from worker.supervisor.messages import (
    Adopt,
    Deadline,
    Drain,
    Failed,
    Pause,
    Ready,
    Reason,
    Release,
    Resume,
    ToWorker,
    receive_from_worker,
    send,
)
from worker.supervisor.respawn import failures_in_a_row, respawn_delay
from worker.supervisor.spawn import WorkerMain, fork_worker

log = logging.getLogger("propylon.master")

KILL_AFTER = 5.0  # seconds after the time a worker was given


class Workers:
    """Every process the master has forked to serve, by slots."""

    def __init__(self, settings: Settings, worker_main: WorkerMain) -> None:
        self.settings = settings  # those in force
        self.scoreboard = Scoreboard()
        self.slots: list[Slot] = []
        self.given_up: list[Slot] = []  # their sockets are adopted, since connections may wait in their queues
        self.own_sockets: Callable[[], list[socket.socket]] = list  # of the master, which no child must keep
        self.revision_before: Callable[[int], int] = lambda _: 0  # that a master before us had of a store
        self._worker_main = worker_main

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

        Slots that are added take the places of those given up.

        Raises:
            SettingsError: an address cannot be had.
        """
        addresses = all_addresses(settings, [slot.listeners for slot in self.slots])
        spare = {slot.number: slot for slot in self.given_up}
        added = [spare.get(number) or Slot(number, []) for number in range(len(self.slots), count)]
        siblings = [slot.listeners for slot in self.slots]
        opened: list[tuple[Slot, Listeners]] = []
        try:
            for slot in (*self.slots[:count], *added):
                opened.append((slot, open_missing(slot.listeners, addresses, settings.backlog, siblings)))  # noqa: PERF401
        except SettingsError:
            for _, listeners in opened:
                close_listeners(listeners)
            raise
        for slot, listeners in opened:
            slot.listeners += listeners
        self.slots += added
        self.given_up = [slot for slot in self.given_up if slot not in added]

    def begin_with(self, listeners: Sequence[Listeners], count: int) -> None:
        """Take the sockets that the master was born with, by slots; those beyond ``count`` are adopted."""
        slots = [Slot(number, each) for number, each in enumerate(listeners)]
        self.slots, self.given_up = slots[:count], slots[count:]

    def places(self) -> list[Place]:
        """Return the sockets that are to survive the master."""
        return [
            (slot.number, address, sock) for slot in (*self.slots, *self.given_up) for address, sock in slot.listeners
        ]

    def close_unused(self) -> None:
        """Close the sockets of addresses that the settings in force do not have."""
        wanted = {*self.settings.addresses(), self.settings.control_address()}
        for slot in (*self.slots, *self.given_up):
            unused = [listener for listener in slot.listeners if listener[0] not in wanted]
            if unused:
                close_listeners(unused)
                slot.listeners = [listener for listener in slot.listeners if listener not in unused]
                self._end_adoption(slot)
        self.settle_adoptions()

    def _end_adoption(self, slot: Slot) -> None:
        for child in self.everyone():
            if slot.number in child.adopted:
                child.adopted.discard(slot.number)
                self.tell(child, Release(slot.number))

    def give_up(self, slot: Slot, seconds: float) -> None:
        """Let the workers of a slot leave; another accepts for it from now on."""
        self.slots.remove(slot)
        self.given_up.append(slot)
        slot.respawn_at = None
        leaving = [child for child in (slot.worker, slot.successor) if child is not None]
        slot.worker = slot.successor = None
        slot.retired += leaving
        for child in leaving:
            self.drain(child, "reload", seconds)
        self.settle_adoptions()
        self.release_retired(slot)

    def sockets_but(self, mine: Listeners) -> list[socket.socket]:
        """Return every socket of the master but these: what a child closes."""
        foreign = [
            listener[1] for slot in (*self.slots, *self.given_up) for listener in slot.listeners if listener not in mine
        ]
        return [*self.own_sockets(), *(child.control for child in self.everyone()), *foreign]

    # births and deaths

    def fork(self, slot: Slot, generation: int, settings: Settings) -> Child:
        """Fork a worker for a slot.

        Raises:
            OSError: there are too many processes, descriptors or workers that drain, or too little memory.
        """
        entry = self.scoreboard.allocate(slot.number, generation, settings.store_identity())
        alike = [child.entry for child in self.everyone() if child.entry.store == entry.store]
        minimum = max((other.revision for other in alike), default=self.revision_before(entry.store))
        wanted, control = settings.addresses(), settings.control_address()
        own = [listener for listener in slot.listeners if listener[0] in wanted]
        # When a worker hangs, the others answer on the control address in its place.
        mine = own + [listener for each in self.slots for listener in each.listeners if listener[0] == control]
        try:
            child = fork_worker(entry, settings, mine, minimum, lambda: self.sockets_but(mine), self._worker_main)
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
                self.drain(slot.worker, "reload", seconds)
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

    def schedule_respawn(self, slot: Slot, child: Child, cause: str, now: float) -> None:
        """Note when a slot whose worker has died is filled again."""
        lived = now - child.born
        slot.failures = failures_in_a_row(slot.failures, lived)
        delay = respawn_delay(slot.failures, random.random)
        slot.respawn_at = now + delay
        self.scoreboard.count_restart(slot.number)
        log.error("worker %d died after %.1f s: %s; forking again in %.1f s", child.pid, lived, cause, delay)

    # what is said

    def hear(self, child: Child) -> bool:
        """Read what a child says; True when that is that it serves. Raises BlockingIOError when it says nothing."""
        packet = receive_from_worker(child.control)
        if packet is None:
            child.silent = True
        elif isinstance(packet.message, Failed):
            child.reason = packet.message.reason
        elif isinstance(packet.message, Ready):
            child.ready = True
            return True
        return False

    def tell(self, child: Child, message: ToWorker) -> None:
        """Tell a child something; one that does not read, or is gone, is noticed otherwise."""
        if not send(child.control, message) and not child.silent:
            log.warning("worker %d does not read what it is told", child.pid)

    def signal(self, child: Child, number: signal.Signals) -> None:
        """Signal a child."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    def pause(self, child: Child) -> None:
        """Let a worker accept nobody for the time being."""
        child.paused = True
        self.tell(child, Pause())

    def resume(self, child: Child) -> None:
        """Let a worker be as before; it says Ready when it is."""
        child.paused = child.draining = child.ready = False
        child.kill_at = float("inf")
        self.tell(child, Resume())

    def drain(self, child: Child, reason: Reason, seconds: float) -> None:
        """Let a worker finish and end; it is killed when it does not."""
        child.draining = True
        child.kill_at = time.monotonic() + seconds + KILL_AFTER
        self.tell(child, Drain(reason, seconds))

    def hasten(self, child: Child, seconds: float) -> None:
        """Let a worker that drains be done soon."""
        kill_at = time.monotonic() + seconds + KILL_AFTER
        if kill_at < child.kill_at:
            child.kill_at = kill_at
            self.tell(child, Deadline(seconds))

    def release_retired(self, slot: Slot) -> None:
        """Let those who drain for good close their copies of the listening sockets."""
        for child in slot.retired:
            self.tell(child, Release(slot.number))

    def settle_adoptions(self) -> None:
        """See that somebody accepts for every slot."""
        for move in adoptions(self.slots, self.given_up):
            number = move.slot.number
            if isinstance(move, Give):
                log.info("worker %d accepts for slot %d, too", move.child.pid, number)
                wanted = self.settings.addresses()
                given = [listener for listener in move.slot.listeners if listener[0] in wanted]
                adopt = Adopt(number, tuple(str(address) for address, _ in given))
                if send(move.child.control, adopt, [sock for _, sock in given]):
                    move.child.adopted.add(number)
            else:
                move.child.adopted.discard(number)
                self.tell(move.child, Release(number))

    # time

    def kill_the_overdue(self, now: float, heartbeat_timeout: float, startup_timeout: float) -> None:
        """Kill those who hang, after they had time to write their stacks, and those who do not end in time."""
        for child in self.everyone():
            if now >= child.kill_at:
                log.warning("worker %d does not stop, and is killed", child.pid)
                self.signal(child, signal.SIGKILL)
                child.kill_at = now + KILL_AFTER
            else:
                self._check_heartbeat(child, now, heartbeat_timeout, startup_timeout)

    def _check_heartbeat(self, child: Child, now: float, heartbeat_timeout: float, startup_timeout: float) -> None:
        beat = child.entry.heartbeat_ns / 1e9
        silence = now - (beat or child.born)
        limit = heartbeat_timeout if beat else max(heartbeat_timeout, startup_timeout)
        asked = None if child.asked_for_stacks is None else now - child.asked_for_stacks
        hang = hang_of(silence, limit, asked)
        if hang is Hang.NOTHING:
            child.asked_for_stacks = None
        elif hang is Hang.ASK_FOR_STACKS:
            log.error(
                "worker %d has not moved for %.0f seconds; its stacks follow, then it is killed", child.pid, silence
            )
            child.asked_for_stacks = now
            if beat:  # before, the signal would end it
                self.signal(child, DUMP_SIGNAL)
        elif hang is Hang.KILL:
            self.signal(child, signal.SIGKILL)
