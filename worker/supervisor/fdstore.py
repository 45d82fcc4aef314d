"""The copies of our listening sockets that systemd keeps (FDSTORE=1 in sd_notify(3)).

A master that is killed leaves them there, with the connections that wait in their queues, and the next one begins with
them. ``FdStore`` compares what systemd has with what it should have.
"""

import os
import socket
from collections.abc import Iterable, Sequence

from config_sync.settings import Address
from worker.observability.systemd import Message

Place = tuple[int, Address, socket.socket]  # slot, what is listened on, how


def store_name(slot: int, address: Address) -> str:
    """Name a socket of a slot; systemd allows no colon in a name."""
    return f"propylon-{slot}-{address.host}-{address.port}".replace(":", "_")


class FdStore:
    """What systemd has of us."""

    def __init__(self, stored: Iterable[tuple[str, socket.socket]] = ()) -> None:
        """Begin with the sockets that came out of the store, and their names."""
        self._names = {_inode(sock): name for name, sock in stored}
        self._foreign: set[int] = set()

    def leave_out(self, sock: socket.socket) -> None:
        """Never store a socket: systemd has it already, for a .socket unit."""
        self._foreign.add(_inode(sock))

    def is_left_out(self, sock: socket.socket) -> bool:
        """Tell whether a socket is never stored."""
        return _inode(sock) in self._foreign

    def name(self, sock: socket.socket) -> str:
        """Return the name that a socket has in the store; empty when it is not there."""
        return self._names.get(_inode(sock), "")

    def changes(self, wanted: Sequence[Place]) -> list[Message]:
        """Return what makes the store hold these sockets and no others; they are taken to be sent."""
        places: dict[int, Place] = {}
        for place in wanted:
            places.setdefault(_inode(place[2]), place)  # one that slots share is stored once, for the first of them
        gone = sorted(self._names.keys() - places.keys())
        messages = [Message(f"FDSTOREREMOVE=1\nFDNAME={self._names.pop(inode)}") for inode in gone]
        for inode, (slot, address, sock) in places.items():
            if inode not in self._names and inode not in self._foreign:
                name = self._names[inode] = self._unused(store_name(slot, address))
                messages.append(Message(f"FDSTORE=1\nFDNAME={name}", (sock,)))
        return messages

    def _unused(self, name: str) -> str:
        used = set(self._names.values())
        if name not in used:
            return name
        return next(longer for at in range(1, len(used) + 2) if (longer := f"{name}-{at}") not in used)


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino
