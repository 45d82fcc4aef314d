"""Listening sockets: one for every worker slot and address, shared by SO_REUSEPORT, owned by the master."""

import socket
from collections.abc import Iterable

from config_sync.errors import SettingsError
from config_sync.settings import Address

Listeners = dict[Address, socket.socket]


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


def open_missing(present: Listeners, addresses: Iterable[Address], backlog: int) -> Listeners:
    """Open those addresses that are not present; all or none.

    Raises:
        SettingsError: one of them cannot be had.
    """
    opened: Listeners = {}
    try:
        for address in addresses:
            if address not in present:
                opened[address] = open_listener(address, backlog)
    except SettingsError:
        close_listeners(opened)
        raise
    return opened


def close_listeners(listeners: Listeners) -> None:
    """Close sockets; connections that wait in their queues are reset."""
    for sock in listeners.values():
        sock.close()
