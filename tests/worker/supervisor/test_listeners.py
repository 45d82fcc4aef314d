"""Opening what slots listen on."""

import socket

import pytest

from config_sync.errors import SettingsError
from config_sync.settings import Address
from tests.fakes.processes import free_port
from worker.supervisor.listeners import bind_missing, close_listeners, open_api


def test_all_or_none_are_bound() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # without SO_REUSEPORT, so nobody can join it
        taken = Address("127.0.0.1", sock.getsockname()[1])
        with pytest.raises(SettingsError, match="cannot bind"):
            bind_missing([], [Address("127.0.0.1", 0), taken])
        bound = bind_missing([(taken, sock)], [Address("127.0.0.1", 0), taken])
        assert [address.port for address, _ in bound] == [0]
        close_listeners(bound)


def test_slots_share_an_address() -> None:
    address = Address("127.0.0.1", free_port())
    first = bind_missing([], [address])
    second = bind_missing([], [address], [first])
    assert first[0][1].fileno() != second[0][1].fileno()
    for _, sock in (*first, *second):
        sock.listen(1)
    close_listeners([*first, *second])


def test_slots_share_a_socket_that_stands_alone() -> None:
    with socket.socket() as alone:
        alone.bind(("127.0.0.1", 0))
        address = Address(*alone.getsockname())
        [(_, sock)] = bind_missing([], [address], [[], [(address, alone)]])
        assert sock.getsockname() == alone.getsockname()
        sock.close()


def test_nobody_else_has_the_control_address() -> None:
    address = Address("127.0.0.1", free_port())
    with open_api(address, [], 5) as first, open_api(address, [[], [(address, first)]], 5) as second:
        assert first.getsockname() == second.getsockname()
        with pytest.raises(SettingsError, match=r"cannot bind .*: Address already in use"):
            open_api(address, [], 5)
