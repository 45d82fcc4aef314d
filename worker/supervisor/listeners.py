"""Listening sockets: one for every worker slot and address, shared by SO_REUSEPORT, owned by the master.

A socket whose slot is given up is not closed, for the kernel may have queued connections on it, and would reset them.
A slot that stays adopts it, and its worker accepts from both; when slots are added again, they take adopted ones first.
"""

import logging
import socket
from collections.abc import Iterable, Sequence

from config_sync.errors import SettingsError
from config_sync.settings import Address, Settings

log = logging.getLogger("propylon.master")

Listeners = list[tuple[Address, socket.socket]]


def open_listener(address: Address, backlog: int) -> socket.socket:
    """Open a listening socket that shares its address with those of the other slots.

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
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise SettingsError(f"listen: cannot bind {address}: {error.strerror}") from error
    return sock


def all_addresses(settings: Settings, present: Sequence[Listeners]) -> list[Address]:
    """Return what is listened on, the control address last; that one must not be shared with another gateway.

    Raises:
        SettingsError: it is taken, by others than us.
    """
    control = settings.control_address()
    if control is None:
        return settings.addresses()
    if not any(address == control for listeners in present for address, _ in listeners):
        try:
            check_nobody_listens(control)
        except SettingsError as error:
            raise SettingsError(f'control.listen: {error}; choose another, or "" for none') from error
    return [*settings.addresses(), control]


def check_nobody_listens(address: Address) -> None:
    """See that an address is ours alone: with SO_REUSEPORT another gateway of this user would share it unnoticed.

    Raises:
        SettingsError: somebody listens there, or the address cannot be had.
    """
    with socket.socket(address.family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address.host, address.port))
        except OSError as error:
            raise SettingsError(f"cannot bind {address}: {error.strerror}") from error


def open_missing(
    present: Listeners, addresses: Iterable[Address], backlog: int, siblings: Sequence[Listeners] = ()
) -> Listeners:
    """Open those addresses that are not present; all or none.

    A socket that systemd has opened may not allow another one for its address, since it has no SO_REUSEPORT or belongs
    to another user. All slots share it then: a slot without one gets a copy of a sibling's.

    Raises:
        SettingsError: one of them cannot be had.
    """
    have = {address for address, _ in present}
    opened: Listeners = []
    try:
        for address in addresses:
            if address not in have:
                opened.append((address, _open_or_share(address, backlog, siblings)))
    except SettingsError:
        close_listeners(opened)
        raise
    return opened


def _open_or_share(address: Address, backlog: int, siblings: Sequence[Listeners]) -> socket.socket:
    try:
        return open_listener(address, backlog)
    except SettingsError:
        shared = next((sock for listeners in siblings for found, sock in listeners if found == address), None)
        if shared is None:
            raise
        log.info("all workers share one socket for %s:%d: another cannot be opened beside it", *address)
        return shared.dup()


def share_out(present: Sequence[Listeners], count: int, addresses: Sequence[Address]) -> list[Listeners]:
    """Divide the sockets of the slots there are among ``count`` slots; none of a wanted address is left out.

    Every slot keeps one socket of each address. The others are given to slots that have none, and what is left is
    adopted by all in turn.
    """
    shared: list[Listeners] = [[] for _ in range(count)]
    spare: Listeners = []
    for at, listeners in enumerate(present):
        for listener in listeners:
            is_own = at < count and listener[0] in addresses and not _has(shared[at], listener[0])
            if is_own:
                shared[at].append(listener)
            elif listener[0] in addresses:
                spare.append(listener)
    for listeners in shared:
        for address in addresses:
            found = next((listener for listener in spare if listener[0] == address), None)
            if found is not None and not _has(listeners, address):
                spare.remove(found)
                listeners.append(found)
    for at, listener in enumerate(spare):
        shared[at % count].append(listener)
    return shared


def _has(listeners: Listeners, address: Address) -> bool:
    return any(listener[0] == address for listener in listeners)


def close_listeners(listeners: Iterable[tuple[Address, socket.socket]]) -> None:
    """Close sockets; connections that wait in their queues are reset."""
    for _, sock in listeners:
        sock.close()
