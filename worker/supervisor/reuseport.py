"""ReuseportGroup: the sockets of one address, one for each slot, and which of them get new connections.

A program that steers names sockets by their index in the kernel's group, so the order of the group is kept here as the
kernel has it (net/core/sock_reuseport.c): who begins to listen is put at the end, and when one is closed, the last one
takes its place. A socket is closed for the kernel only when no process has it any more; shutting it down takes it out
of the group at once, whoever has a copy.

A group that cannot be steered, since the kernel refuses it or the order of inherited sockets is not known, gets along
without: a socket that is added does not listen before its worker calls listen(), and is never closed alone.
"""

import contextlib
import logging
import select
import socket
from collections.abc import Iterable, Mapping, Sequence

from config_sync.errors import SettingsError
from config_sync.settings import Address
from worker.supervisor import steering

log = logging.getLogger("propylon.master")


def bind_listener(address: Address) -> socket.socket:
    """Make a socket that shares its address with those of the other slots, and does not listen yet.

    Raises:
        SettingsError: the address cannot be had.
    """
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        raise SettingsError(f"listen: cannot bind {address}: {error.strerror}") from error
    return sock


class ReuseportGroup:
    """The listening sockets of one address."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.can_steer = True
        self._sockets: dict[int, socket.socket] = {}  # by slot
        self._order: list[int] = []  # slots, as their sockets stand in the kernel's group
        self._open: set[int] = set()  # slots that get new connections

    @property
    def slots(self) -> list[int]:
        """The slots that have a socket here."""
        return sorted(self._sockets)

    @property
    def order(self) -> list[int] | None:
        """The slots in the order of the kernel's group, for who inherits the sockets; None: it is not known."""
        return list(self._order) if self.can_steer else None

    def of_slot(self, slot: int) -> socket.socket | None:
        """Return the socket of a slot."""
        return self._sockets.get(slot)

    def sockets(self) -> list[socket.socket]:
        """Return all sockets."""
        return list(self._sockets.values())

    def inherit(self, sockets: Mapping[int, socket.socket], order: Sequence[int] | None) -> None:
        """Take sockets that listen already, and are open; ``order`` as of ``order``."""
        self._sockets |= sockets
        self._order += order if order is not None else sockets
        self._open |= set(sockets)
        self.can_steer = self.can_steer and order is not None

    def add(self, slots: Iterable[int], backlog: int, is_open: bool) -> list[int]:
        """Open sockets for those slots that have none; all or none. Returns these slots.

        One that is not open gets no connections before ``open``, unless there is no other; those wait.

        Raises:
            SettingsError: the address cannot be had.
        """
        fresh: dict[int, socket.socket] = {}
        try:
            for slot in slots:
                if slot not in self._sockets:
                    fresh[slot] = bind_listener(self.address)
            for slot, sock in fresh.items():
                self._listen(slot, sock, backlog, is_open)
        except (SettingsError, OSError) as error:
            for slot, sock in fresh.items():
                if slot in self._sockets:
                    self.close(slot)
                sock.close()
            if isinstance(error, SettingsError):
                raise
            raise SettingsError(f"listen: cannot listen on {self.address}: {error.strerror}") from error
        return list(fresh)

    def _listen(self, slot: int, sock: socket.socket, backlog: int, is_open: bool) -> None:
        if is_open:
            self._open.add(slot)
        elif self._order:
            self._steer(self._indexes())  # before it is there
        if is_open or self.can_steer:
            sock.listen(backlog)
        self._sockets[slot] = sock
        self._order.append(slot)

    def open(self, slot: int) -> None:
        """Let the socket of a slot get new connections."""
        if slot in self._sockets and slot not in self._open:
            self._open.add(slot)
            self._apply()

    def steer_away(self, slot: int) -> bool:
        """Let the socket of a slot get no new connections; False when others cannot get them instead."""
        if slot not in self._sockets:
            return True
        if slot not in self._open:
            return True
        others = self._open - {slot}
        if not self.can_steer or not others:
            return False
        self._steer([at for at, each in enumerate(self._order) if each in others])
        if self.can_steer:
            self._open = others
        return self.can_steer

    def seal(self) -> bool:
        """Refuse new connections on all sockets, for good; False when that cannot be had."""
        *others, last = self._sockets.values()
        if self.can_steer:
            # Meanwhile they go to one that is not sealed yet.
            self._steer([self._order.index(list(self._sockets)[-1])])
        try:
            for sock in (*others, last):
                steering.seal(sock)
        except OSError as error:
            log.warning(
                "%s cannot be sealed: %s; who connects when it is closed may be reset", self.address, error.strerror
            )
            return False
        return True

    def is_waited_on(self, slots: Iterable[int]) -> bool:
        """Tell whether connections wait in the queues of these slots."""
        return any(is_waited_on(self._sockets[slot]) for slot in slots if slot in self._sockets)

    def close(self, slot: int) -> None:
        """Close the socket of a slot, for all who have it; what waits in its queue is reset."""
        sock = self._sockets.pop(slot, None)
        if sock is None:
            return
        self._open.discard(slot)
        index, last = self._order.index(slot), len(self._order) - 1
        if self.can_steer and last:
            # The last one's index changes, so for a moment others are chosen.
            still = [at for at in self._indexes() if at not in (index, last)]
            self._steer(still or self._indexes())
        with contextlib.suppress(OSError):  # it does not listen
            sock.shutdown(socket.SHUT_RD)
        sock.close()
        self._order[index] = self._order[last]
        self._order.pop()
        self._apply()

    def close_all(self) -> None:
        """Close our copies of all sockets."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._order.clear()
        self._open.clear()

    def _indexes(self) -> list[int]:
        """Return where the open sockets stand; when there is none, where the first one does, who waits for it."""
        return [at for at, slot in enumerate(self._order) if slot in self._open] or [0]

    def _apply(self) -> None:
        if self._order:
            indexes = self._indexes()
            self._steer(indexes if len(indexes) < len(self._order) else None)

    def _steer(self, indexes: Sequence[int] | None) -> None:
        if not self.can_steer:
            return
        program = steering.choose_among(indexes) if indexes is not None else None
        try:
            steering.steer(next(iter(self._sockets.values())), program)
        except OSError as error:
            self.can_steer = False
            log.warning(
                "connections to %s cannot be steered: %s; the sockets of slots are kept", self.address, error.strerror
            )


def is_waited_on(sock: socket.socket) -> bool:
    """Tell whether a connection waits in the queue of a listening socket."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    # One that has been shut down, or does not listen, looks readable, too, and says so.
    return any(not event & select.POLLHUP for _, event in poll.poll(0))
