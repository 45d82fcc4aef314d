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
import os
import select
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from config_sync.settings import Address
from worker.supervisor import steering

log = logging.getLogger("propylon.master")


@dataclass(frozen=True)
class _Member:
    """A socket in the kernel's group; slots that share it have copies. A slot may have inherited several."""

    inode: int
    sockets: dict[int, socket.socket]  # by slot
    is_kept: bool  # by systemd, of a .socket unit: not ours to seal or to end


class ReuseportGroup:
    """The mirror of the kernel's group of one address, with the sockets of slots."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.can_steer = True
        self._members: list[_Member] = []  # in the kernel's order
        self._open: set[int] = set()  # slots that get new connections

    @property
    def slots(self) -> list[int]:
        """The slots that have a socket here."""
        return sorted({slot for member in self._members for slot in member.sockets})

    @property
    def order(self) -> list[int] | None:
        """A slot of each socket, in the order of the kernel's group; None: it is not known."""
        return [min(member.sockets) for member in self._members] if self.can_steer else None

    def of_slot(self, slot: int) -> list[socket.socket]:
        """Return the sockets of a slot: one, unless more were inherited."""
        return [member.sockets[slot] for member in self._members if slot in member.sockets]

    def sockets(self) -> list[socket.socket]:
        """Return all sockets."""
        return [sock for member in self._members for sock in member.sockets.values()]

    def add(self, slot: int, sock: socket.socket, backlog: int, is_open: bool, is_kept: bool = False) -> None:
        """Put the socket of a slot in, and let it listen. One that listens already has come from another process.

        Args:
            slot: whose it is.
            sock: bound to the address.
            backlog: how many connections may wait.
            is_open: otherwise it gets no connections before ``open``, unless there is no other; those wait.
            is_kept: systemd keeps it, too.

        Raises:
            OSError: it cannot listen.
        """
        inode = os.fstat(sock.fileno()).st_ino
        shared = next((member for member in self._members if member.inode == inode), None)
        is_listening = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
        if shared is not None:
            shared.sockets[slot] = sock
            self._open.add(slot)
            return
        if is_listening:
            # The order of what others have opened is not known, unless there is only one.
            self.can_steer = self.can_steer and not self._members
        elif not is_open and self._members:
            self._steer(self._indexes())  # before it is there
        if is_open or self.can_steer:
            sock.listen(backlog)
        if is_open or is_listening:
            self._open.add(slot)
        self._members.append(_Member(inode, {slot: sock}, is_kept))

    def open(self, slot: int) -> None:
        """Let the socket of a slot get new connections."""
        if slot not in self._open and self.of_slot(slot):
            self._open.add(slot)
            self._apply()

    def steer_away(self, slot: int) -> bool:
        """Let the socket of a slot get no new connections; False when others cannot get them instead."""
        if slot not in self._open:
            return True
        others = self._open - {slot}
        if all(others & member.sockets.keys() for member in self._members if slot in member.sockets):
            self._open = others  # all its sockets are shared
            return True
        if not self.can_steer or not others:
            return False
        self._steer([at for at, each in enumerate(self._members) if others & each.sockets.keys()])
        if self.can_steer:
            self._open = others
        return self.can_steer

    def seal(self) -> bool:
        """Refuse new connections on all sockets, for good; False when that cannot be had."""
        if self._members:
            # Meanwhile they go to one that is not sealed yet.
            self._steer([len(self._members) - 1])
        try:
            for member in self._members:
                if not member.is_kept:
                    steering.seal(next(iter(member.sockets.values())))
        except OSError as error:
            log.warning(
                "%s cannot be sealed: %s; who connects when it is closed may be reset", self.address, error.strerror
            )
            return False
        return True

    def is_waited_on(self, slots: Iterable[int]) -> bool:
        """Tell whether connections wait in queues that only these slots have."""
        given = set(slots)
        return any(
            is_waited_on(next(iter(member.sockets.values())))
            for member in self._members
            if member.sockets.keys() <= given
        )

    def close(self, slot: int) -> None:
        """Close the sockets of a slot, for all processes unless other slots share it; what waits in it is reset."""
        self._open.discard(slot)
        for member in [member for member in self._members if slot in member.sockets]:
            if len(member.sockets) > 1:
                member.sockets.pop(slot).close()
            else:
                self._close(member, member.sockets[slot])

    def _close(self, member: _Member, sock: socket.socket) -> None:
        index, last = self._members.index(member), len(self._members) - 1
        if last:
            # The last one's index changes, so for a moment others are chosen.
            still = [at for at in self._indexes() if at not in (index, last)]
            self._steer(still or self._indexes())
        if member.is_kept:
            self.can_steer = False  # it stays in the kernel's group
        else:
            with contextlib.suppress(OSError):  # it does not listen
                sock.shutdown(socket.SHUT_RD)
        sock.close()
        self._members[index] = self._members[last]
        self._members.pop()
        self._apply()

    def _indexes(self) -> list[int]:
        """Return where the open sockets stand; when there is none, where the first one does, who waits for it."""
        return [at for at, member in enumerate(self._members) if self._open & member.sockets.keys()] or [0]

    def _apply(self) -> None:
        if self._members:
            indexes = self._indexes()
            self._steer(indexes if len(indexes) < len(self._members) else None)

    def _steer(self, indexes: Sequence[int] | None) -> None:
        if not self.can_steer:
            return
        program = steering.choose_among(indexes) if indexes is not None else None
        try:
            steering.steer(self.sockets()[0], program)
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
