"""Listening sockets that this process was born with: from systemd, or from the master that it is to replace.

systemd announces descriptors in ``LISTEN_FDS`` (sd_listen_fds(3)): those of a .socket unit, and those that a master
before us gave into its store, under names that begin with ``propylon-`` and their slot. A master that is upgraded
announces them in ``PROPYLON_LISTENERS``.
"""

import contextlib
import logging
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from config_sync.settings import Address
from worker.supervisor.listeners import Listeners

log = logging.getLogger("propylon.master")

VARIABLE = "PROPYLON_LISTENERS"
FIRST_FD = 3  # SD_LISTEN_FDS_START
_STORED = re.compile(r"propylon-([0-9]{1,4})-")


class Announced(msgspec.Struct, frozen=True):
    """A descriptor as its giver describes it."""

    fd: int
    slot: int | None = None  # None: for whichever has none
    name: str = ""  # in systemd's store; empty: not kept there
    is_activated: bool = False  # of a .socket unit, which systemd keeps


class Handover(msgspec.Struct, frozen=True):
    """What a master tells the one that it starts in an upgrade."""

    channel: int  # descriptor of the connection between the two
    listeners: tuple[Announced, ...] = ()
    revision: int = 0  # which the workers of the old master have
    store: int = 0  # and where it comes from (``Settings.store_identity``)


@dataclass(frozen=True)
class Inherited:
    """A listening socket that we were given."""

    sock: socket.socket
    address: Address
    slot: int | None
    name: str
    is_activated: bool


def read_listen_fds(variables: Mapping[str, str], pid: int) -> list[Announced]:
    """Return what systemd has announced to this process.

    Raises:
        ValueError: the variables contradict themselves.
    """
    if variables.get("LISTEN_PID") != str(pid):
        return []
    text = variables.get("LISTEN_FDS", "")
    if not text.isdigit():
        raise ValueError(f"LISTEN_FDS in the environment is no number: {text!r}")
    count = int(text)
    names = variables["LISTEN_FDNAMES"].split(":") if variables.get("LISTEN_FDNAMES") else [""] * count
    if len(names) != count:
        raise ValueError(f"LISTEN_FDNAMES in the environment has {len(names)} names for {count} descriptors")
    return [_announced(FIRST_FD + at, name) for at, name in enumerate(names)]


def _announced(fd: int, name: str) -> Announced:
    found = _STORED.match(name)
    return Announced(fd, int(found[1]), name) if found else Announced(fd, is_activated=True)


def read_handover(variables: Mapping[str, str]) -> Handover | None:
    """Return what the master that is to be replaced has announced; None when there is none.

    Raises:
        ValueError: it is not understood.
    """
    text = variables.get(VARIABLE)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=Handover)
    except msgspec.DecodeError as error:
        raise ValueError(f"{VARIABLE} in the environment: {error}") from error


def take(announced: Iterable[Announced]) -> list[Inherited]:
    """Take the listening sockets among the descriptors; the others are closed, with a warning.

    A socket that came twice, from a .socket unit and from the store, is taken once, for its slot.
    """
    found: dict[int, Inherited] = {}
    for each in sorted(announced, key=lambda each: each.slot is None):
        inherited = _take_one(each)
        if inherited is None:
            continue
        inode = os.fstat(inherited.sock.fileno()).st_ino
        if inode in found:
            inherited.sock.close()
        else:
            found[inode] = inherited
    return list(found.values())


def _take_one(announced: Announced) -> Inherited | None:
    try:
        sock = socket.socket(fileno=announced.fd)
    except OSError as error:
        log.warning("descriptor %d, which we were given, is no socket: %s", announced.fd, error.strerror)
        with contextlib.suppress(OSError):
            os.close(announced.fd)
        return None
    try:
        is_ours = (
            sock.family in (socket.AF_INET, socket.AF_INET6)
            and sock.type == socket.SOCK_STREAM
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        )
        if not is_ours:
            log.warning("descriptor %d, which we were given, is no listening TCP socket and is closed", announced.fd)
            sock.close()
            return None
        sock.set_inheritable(False)
        host, port = sock.getsockname()[:2]
    except OSError as error:
        log.warning("descriptor %d, which we were given, is of no use: %s", announced.fd, error.strerror)
        sock.close()
        return None
    return Inherited(sock, Address(host, port), announced.slot, announced.name, announced.is_activated)


def allot(
    inherited: Sequence[Inherited], addresses: Sequence[Address], count: int
) -> tuple[list[Listeners], Listeners]:
    """Divide sockets among slots; returns what each has, and what nobody wants.

    There are as many slots as the sockets were of, and at least ``count``. A socket goes to the slot it had. Those that
    had none go to slots without one for their address, in order.
    """
    named = {_canonical(address): address for address in addresses}
    wanted = [(each.slot, named[key], each.sock) for each in inherited if (key := _canonical(each.address)) in named]
    slots = max([count, *(slot + 1 for slot, _, _ in wanted if slot is not None)])
    shared: list[Listeners] = [[] for _ in range(slots)]
    for slot, address, sock in wanted:
        if slot is not None:
            shared[slot].append((address, sock))
    for slot, address, sock in wanted:
        if slot is None:
            free = (listeners for listeners in shared if all(address != found for found, _ in listeners))
            next(free, shared[0]).append((address, sock))
    return shared, [(each.address, each.sock) for each in inherited if _canonical(each.address) not in named]


def _canonical(address: Address) -> tuple[bytes, int]:
    """Return the same for every spelling of an address."""
    return socket.inet_pton(address.family, address.host), address.port
