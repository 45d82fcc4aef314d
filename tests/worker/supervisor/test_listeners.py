"""Who gets which listening socket when slots come and go."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.errors import SettingsError
from config_sync.settings import Address
from worker.supervisor.listeners import Listeners, check_nobody_listens, close_listeners, open_missing, share_out

A, B = Address("127.0.0.1", 1), Address("127.0.0.1", 2)


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as opened:
        yield opened


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.booleans())
def test_no_socket_of_a_wanted_address_is_lost_or_given_twice(counts: list[int], both: bool) -> None:
    addresses = [A, B] if both else [A]
    slots: list[Listeners] = []
    created = 0
    for count in counts:
        before = [listener for listeners in slots for listener in listeners]
        slots = share_out(slots, count, addresses)
        shared = [listener for listeners in slots for listener in listeners]
        assert sorted(map(id, (s for _, s in shared))) == sorted(map(id, (s for _, s in before)))
        for listeners in slots:
            for address in addresses:
                if all(address != found for found, _ in listeners):
                    listeners.append((address, object()))  # type: ignore[arg-type]
                    created += 1
    assert created == max(counts) * len(addresses)


def test_slots_keep_their_own(sock: socket.socket) -> None:
    other = object()
    slots: list[Listeners] = [[(A, sock)], [(A, other)]]  # type: ignore[list-item]
    assert share_out(slots, 1, [A]) == [[(A, sock), (A, other)]]
    assert share_out([[(A, sock), (A, other)]], 2, [A]) == slots  # type: ignore[list-item]
    assert share_out(slots, 2, [B]) == [[], []]


def test_all_or_none_are_opened(sock: socket.socket) -> None:
    sock.bind(("127.0.0.1", 0))  # without SO_REUSEPORT, so nobody can join it
    taken = Address("127.0.0.1", sock.getsockname()[1])
    with pytest.raises(SettingsError, match="cannot bind"):
        open_missing([], [Address("127.0.0.1", 0), taken], 16)
    opened = open_missing([(taken, sock)], [Address("127.0.0.1", 0), taken], 16)
    assert [address.port for address, _ in opened] == [0]
    close_listeners(opened)


def test_an_address_that_another_gateway_shares_is_noticed() -> None:
    other = open_missing([], [Address("127.0.0.1", 0)], 5)
    taken = Address("127.0.0.1", other[0][1].getsockname()[1])
    with pytest.raises(SettingsError, match="Address already in use"):
        check_nobody_listens(taken)
    close_listeners(other)
    check_nobody_listens(taken)
