"""ListenerGroups: the reuseport groups of all addresses, and what is being retired of them.

- The sockets of a slot that is added get connections only when its worker is ready.
- A slot that is given up gets no connections any more; who accepts for it lets go when what is queued is accepted;
  then its sockets are closed. Where connections cannot be steered, the sockets stay, for others to adopt.
- An address that is given up is sealed; all let go of it when what is queued is accepted, and it is closed.
"""

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from config_sync.settings import Address
from worker.supervisor.listeners import Listeners
from worker.supervisor.messages import socket_number
from worker.supervisor.retirement import Retirement, Stage
from worker.supervisor.reuseport import ReuseportGroup

log = logging.getLogger("propylon.master")


@dataclass(frozen=True)
class LetSlotGo:
    """Nobody waits for a retired slot any more: who accepts for it is to let go of its sockets."""

    slot: int


@dataclass(frozen=True)
class LetAddressGo:
    """Nobody waits for a retired address any more: all are to let go of its sockets."""

    sockets: tuple[int, ...]  # as of ``socket_number``: the address may be listened on anew, by others


@dataclass(frozen=True)
class SlotClosed:
    """The sockets of a retired slot are closed."""

    slot: int


Event = LetSlotGo | LetAddressGo | SlotClosed


class ListenerGroups:
    """The sockets of slots that share addresses; slots have their own record of them (``Slot.listeners``)."""

    def __init__(self, is_kept: Callable[[socket.socket], bool] = lambda _: False) -> None:
        """Begin without any; ``is_kept`` tells which sockets systemd keeps, too."""
        self.is_kept = is_kept
        self._groups: dict[Address, ReuseportGroup] = {}
        self._slots: dict[int, Retirement] = {}  # that are retired
        self._sealed: list[tuple[ReuseportGroup, Retirement]] = []

    def __contains__(self, address: object) -> bool:
        """Tell whether an address is listened on, and not given up."""
        return address in self._groups

    def sockets(self) -> list[socket.socket]:
        """Return all sockets."""
        groups = (*self._groups.values(), *(group for group, _ in self._sealed))
        return [sock for group in groups for sock in group.sockets()]

    def of_slot(self, slot: int) -> list[socket.socket]:
        """Return the sockets of a slot that somebody should accept from."""
        ending = (group for group, retirement in self._sealed if retirement.stage is not Stage.RELEASED)
        groups = (*self._groups.values(), *ending)
        return [sock for group in groups for sock in group.of_slot(slot)]

    def is_needed(self, slot: int) -> bool:
        """Tell whether somebody should accept for a slot."""
        retirement = self._slots.get(slot)
        return bool(self.of_slot(slot)) and (retirement is None or retirement.stage is not Stage.RELEASED)

    def add(self, slot: int, listeners: Listeners, backlog: int, is_open: bool) -> None:
        """Let sockets of a slot listen; see ``ReuseportGroup.add``.

        Raises:
            OSError: one cannot.
        """
        for address, sock in listeners:
            group = self._groups.setdefault(address, ReuseportGroup(address))
            group.add(slot, sock, backlog, is_open, self.is_kept(sock))

    def remove(self, slot: int, address: Address) -> None:
        """Close a socket that was to be added in vain."""
        group = self._groups.get(address)
        if group is not None:
            group.close(slot)
            if not group.slots:
                del self._groups[address]

    def open(self, slot: int) -> None:
        """Let a slot get connections: its worker accepts."""
        for group in self._groups.values():
            group.open(slot)

    def retire_slot(self, slot: int, now: float) -> bool:
        """Give a slot up; False when its sockets have to stay, and somebody has to accept from them."""
        away = [group.steer_away(slot) for group in self._groups.values()]
        if not all(away):
            log.info("the sockets of slot %d are kept, and others accept from them", slot)
            return False
        self._slots[slot] = Retirement(now)
        return True

    def revive_slot(self, slot: int) -> None:
        """Give a slot up no more; it gets connections when it is opened."""
        self._slots.pop(slot, None)

    def retire_address(self, address: Address, now: float) -> None:
        """Give an address up."""
        group = self._groups.pop(address, None)
        if group is not None:
            group.seal()
            self._sealed.append((group, Retirement(now)))

    @property
    def due(self) -> float | None:
        """When ``tick`` has something to do; None: not before something happens."""
        retirements = [*self._slots.values(), *(retirement for _, retirement in self._sealed)]
        return min((retirement.due for retirement in retirements), default=None)

    def tick(self, now: float) -> list[Event]:
        """Go on with what takes time; returns what has come of it."""
        return [*self._tick_slots(now), *self._tick_sealed(now)]

    def _tick_slots(self, now: float) -> list[Event]:
        events: list[Event] = []
        for slot, retirement in list(self._slots.items()):
            is_waited_on = any(group.is_waited_on([slot]) for group in self._groups.values())
            stage = retirement.look(now, is_waited_on)
            if stage is Stage.RELEASED:
                events.append(LetSlotGo(slot))
            elif stage is Stage.OVER:
                del self._slots[slot]
                for group in (*self._groups.values(), *(group for group, _ in self._sealed)):
                    group.close(slot)
                events.append(SlotClosed(slot))
        return events

    def _tick_sealed(self, now: float) -> list[Event]:
        events: list[Event] = []
        for ending in list(self._sealed):
            group, retirement = ending
            if not group.slots:
                self._sealed.remove(ending)
                continue
            stage = retirement.look(now, group.is_waited_on(group.slots))
            if stage is Stage.RELEASED:
                events.append(LetAddressGo(tuple(map(socket_number, group.sockets()))))
            elif stage is Stage.OVER:
                self._sealed.remove(ending)
                for slot in group.slots:
                    group.close(slot)
        return events
