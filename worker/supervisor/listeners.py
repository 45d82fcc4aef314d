"""Listening sockets: one for every worker slot and address, shared by SO_REUSEPORT, owned by the master.

The addresses of the control interface and of metrics have one socket each, of which every slot has a copy: another
gateway must not listen there, too, and when a worker hangs, the others answer in its place.
"""

import logging
import socket
from collections.abc import Iterable, Sequence

from config_sync.errors import SettingsError
from config_sync.settings import Address

log = logging.getLogger("propylon.master")

Listeners = list[tuple[Address, socket.socket]]


def bind_listener(address: Address, is_shared: bool = True) -> socket.socket:
    """Bind a socket, which does not listen yet; when it is shared, others can be bound to the same address.

    Raises:
        SettingsError: the address cannot be had.
    """
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        raise SettingsError(f"listen: cannot bind {address}: {error.strerror}") from error
    return sock


def bind_missing(present: Listeners, addresses: Iterable[Address], siblings: Sequence[Listeners] = ()) -> Listeners:
    """Bind sockets to those addresses that are not present; all or none.

    A socket that systemd has opened may not allow another one for its address, since it has no SO_REUSEPORT or belongs
    to another user. All slots share it then: a slot without one gets a copy of a sibling's.

    Raises:
        SettingsError: one of them cannot be had.
    """
    have = {address for address, _ in present}
    bound: Listeners = []
    try:
        for address in addresses:
            if address not in have:
                bound.append((address, _bind_or_share(address, siblings)))
    except SettingsError:
        close_listeners(bound)
        raise
    return bound


def _bind_or_share(address: Address, siblings: Sequence[Listeners]) -> socket.socket:
    try:
        return bind_listener(address)
    except SettingsError:
        shared = find_listener(siblings, address)
        if shared is None:
            raise
        log.info("all workers share one socket for %s: another cannot be opened beside it", address)
        return shared.dup()


def find_listener(slots: Iterable[Listeners], address: Address) -> socket.socket | None:
    """Return the first socket of an address."""
    return next((sock for listeners in slots for found, sock in listeners if found == address), None)


def open_api(address: Address, present: Iterable[Listeners], backlog: int) -> socket.socket:
    """Return a copy of the socket of an address that all slots share, or the first one.

    Raises:
        SettingsError: it cannot be had.
    """
    shared = find_listener(present, address)
    if shared is not None:
        return shared.dup()
    sock = bind_listener(address, is_shared=False)
    sock.listen(backlog)
    return sock


def close_listeners(listeners: Iterable[tuple[Address, socket.socket]]) -> None:
    """Close sockets; connections that wait in the queues that nobody else has are reset."""
    for _, sock in listeners:
        sock.close()
