"""Sockets: the listening sockets of the master, and which workers accept from them.

A slot keeps its sockets for as long as there is such a slot, whoever its worker is. The rest is about slots and
addresses that come and go:

- The sockets of a slot that is added get connections only when its worker is ready.
- A slot that has lost its worker is served by another one, until it has a worker again (``adoption``).
- A slot that is given up gets no connections any more; when its worker has accepted what is queued, it drains, and
  when it has let go, the sockets are closed (``retirement``). Where connections cannot be steered, another worker
  adopts the sockets for good.
- An address that is given up is sealed, and released by all workers when what is queued is accepted.

The control address has one socket, which all workers share.
"""

import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from config_sync.errors import SettingsError
from config_sync.settings import Address, Settings
from worker.supervisor.adoption import Adoptions, HaveAdopted, Order
from worker.supervisor.child import Child
from worker.supervisor.listeners import Listeners
from worker.supervisor.messages import Adopt, Release, listening_name, send
from worker.supervisor.retirement import Retirement, Stage
from worker.supervisor.reuseport import ReuseportGroup

log = logging.getLogger("propylon.master")


@dataclass
class _SlotEnd:
    """A slot on its way out, with the worker that has to drain when nobody waits any more."""

    retirement: Retirement
    worker: Child | None


@dataclass
class _GroupEnd:
    """An address on its way out."""

    retirement: Retirement
    group: ReuseportGroup


class Sockets:
    """All listening sockets; ``drain`` is called for the worker of a retired slot when nobody waits for it any more."""

    def __init__(self, drain: Callable[[Child], None]) -> None:
        self._drain = drain
        self._groups: dict[Address, ReuseportGroup] = {}
        self._control: dict[Address, socket.socket] = {}
        self._adoptions = Adoptions()
        self._serving: dict[int, Child] = {}
        self._replaced: dict[int, Child] = {}  # by slot; they drain when there is another
        self._slot_ends: dict[int, _SlotEnd] = {}
        self._group_ends: list[_GroupEnd] = []
        self._unsent: list[tuple[int, Release]] = []

    # opening

    def start(self, settings: Settings, slots: Iterable[int]) -> None:
        """Open everything; connections wait until there are workers.

        Raises:
            SettingsError: an address cannot be had; then nothing is open.
        """
        self._open(settings, list(slots), is_open=True)

    def prepare(self, settings: Settings, slots: Iterable[int]) -> None:
        """Open what new settings, or more slots, need beside what there is; all or nothing.

        Raises:
            SettingsError: an address cannot be had.
        """
        self._open(settings, list(slots), is_open=False)

    def _open(self, settings: Settings, slots: list[int], is_open: bool) -> None:
        added: list[tuple[ReuseportGroup, int]] = []
        try:
            for address in settings.addresses():
                group = self._groups.get(address) or ReuseportGroup(address)
                added += [(group, slot) for slot in group.add(slots, settings.backlog, is_open)]
                self._groups[address] = group
            control = settings.control_address()
            if control is not None and control not in self._control:
                self._control[control] = open_control(control, settings.backlog)
        except SettingsError:
            for group, slot in added:
                group.close(slot)
            self._groups = {address: group for address, group in self._groups.items() if group.slots}
            raise
        for slot in slots:
            # It is wanted again: who was about to leave has a successor, and its sockets stay.
            end = self._slot_ends.pop(slot, None)
            if end is not None and end.worker is not None and end.retirement.stage is not Stage.RELEASED:
                self._replaced[slot] = end.worker

    # who has what

    def of_slot(self, slot: int, settings: Settings) -> Listeners:
        """Return what a worker of this slot is born with, the control address last."""
        listeners = [
            (address, sock) for address, group in self._groups.items() if (sock := group.of_slot(slot)) is not None
        ]
        control = settings.control_address()
        return [*listeners, (control, self._control[control])] if control is not None else listeners

    def all(self) -> list[socket.socket]:
        """Return every socket."""
        groups = [*self._groups.values(), *(end.group for end in self._group_ends)]
        return [*(sock for group in groups for sock in group.sockets()), *self._control.values()]

    # workers come and go

    def ready(self, slot: int, worker: Child) -> None:
        """A worker of this slot accepts, from now on instead of any other."""
        self._serving[slot] = worker
        for group in self._groups.values():
            group.open(slot)
        self._carry_out(self._adoptions.serves(slot))
        replaced = self._replaced.pop(slot, None)
        if replaced is not None:
            self._drain(replaced)

    def lost(self, worker: Child) -> None:
        """A worker has ended. If it was who accepted for its slot, another one does until there is a successor."""
        for slot, serving in list(self._serving.items()):
            if serving is worker:
                del self._serving[slot]
                self._carry_out(self._adoptions.lost(slot))
        for end in self._slot_ends.values():
            if end.worker is worker:
                end.worker = None
        self._replaced = {slot: each for slot, each in self._replaced.items() if each is not worker}

    def retire(self, slot: int, now: float) -> None:
        """Give a slot up; its worker, if it has one, goes on until it is told to drain."""
        worker = self._serving.get(slot)
        self._replaced.pop(slot, None)
        away = [group.steer_away(slot) for group in self._groups.values()]
        if all(away):
            self._slot_ends[slot] = _SlotEnd(Retirement(now), worker)
            return
        log.info("the sockets of slot %d are kept: others accept from them", slot)
        if worker is not None:
            del self._serving[slot]
            self._carry_out(self._adoptions.lost(slot))
            self._drain(worker)

    def keep(self, settings: Settings, now: float) -> None:
        """Give up all addresses that these settings do not have; those of a reload that has failed, too."""
        for address in set(self._groups) - set(settings.addresses()):
            group = self._groups.pop(address)
            group.seal()
            self._group_ends.append(_GroupEnd(Retirement(now), group))
        for address in set(self._control) - {settings.control_address()}:
            self._control.pop(address).close()

    # time

    @property
    def due(self) -> float | None:
        """When ``tick`` has something to do; None: not before something happens."""
        slot_ends, group_ends = self._slot_ends.values(), self._group_ends
        retirements = [*(end.retirement for end in slot_ends), *(end.retirement for end in group_ends)]
        return min((retirement.due for retirement in retirements), default=None)

    def tick(self, now: float) -> None:
        """Go on with what takes time."""
        self._unsent = [(host, message) for host, message in self._unsent if not self._tell(host, message)]
        for slot, slot_end in list(self._slot_ends.items()):
            waited_on = any(group.is_waited_on([slot]) for group in self._groups.values())
            stage = slot_end.retirement.look(now, waited_on)
            if stage is Stage.RELEASED:
                self._serving.pop(slot, None)
                self._carry_out(self._adoptions.retired(slot))
                if slot_end.worker is not None:
                    self._drain(slot_end.worker)
            elif stage is Stage.OVER:
                del self._slot_ends[slot]
                for group in self._groups.values():
                    group.close(slot)
        for end in list(self._group_ends):
            stage = end.retirement.look(now, end.group.is_waited_on(end.group.slots))
            if stage is Stage.RELEASED:
                self._release_everywhere(end.group)
            elif stage is Stage.OVER:
                self._group_ends.remove(end)
                for slot in end.group.slots:
                    end.group.close(slot)

    def close(self) -> None:
        """Close everything."""
        for sock in self.all():
            sock.close()

    # what workers are told

    def _carry_out(self, orders: Iterable[Order]) -> None:
        for order in orders:
            if isinstance(order, HaveAdopted):
                self._have_adopted(order.slot, order.host)
            else:
                self._release(order.host, order.slot)

    def _have_adopted(self, slot: int, host: int) -> None:
        ending = [end.group for end in self._group_ends if end.retirement.stage is not Stage.RELEASED]
        sockets = [sock for group in (*self._groups.values(), *ending) if (sock := group.of_slot(slot)) is not None]
        message = Adopt(slot, tuple(listening_name(sock) for sock in sockets))
        log.info("slot %d has no worker; that of slot %d accepts from its sockets", slot, host)
        if not send(self._serving[host].control, message, sockets):
            log.error("the worker of slot %d cannot be told to adopt slot %d", host, slot)

    def _release_everywhere(self, group: ReuseportGroup) -> None:
        name = listening_name(group.sockets()[0])
        for slot in self._serving:
            self._release(slot, slot, (name,))
        for slot, host in self._adoptions.hosts().items():
            if host is not None:
                self._release(host, slot, (name,))

    def _release(self, host: int, slot: int, addresses: tuple[str, ...] = ()) -> None:
        message = Release(slot, addresses)
        if not self._tell(host, message):
            self._unsent.append((host, message))

    def _tell(self, host: int, message: Release) -> bool:
        """Send a message to who serves a slot; one that is gone has no need of it."""
        worker = self._serving.get(host)
        return worker is None or worker.silent or send(worker.control, message)


def open_control(address: Address, backlog: int) -> socket.socket:
    """Open the socket of the control address, which nobody else may have.

    Raises:
        SettingsError: it cannot be had.
    """
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        reason = f"cannot bind {address}: {error.strerror}"
        raise SettingsError(f'control.listen: {reason}; choose another, or "" for none') from error
    return sock
