"""Which sockets systemd is to keep."""

import socket
from contextlib import ExitStack

from config_sync.settings import Address
from worker.supervisor.fdstore import FdStore, store_name
from worker.supervisor.inherited import read_listen_fds

A, B = Address("127.0.0.1", 80), Address("::1", 80)


def test_what_changes_is_told() -> None:
    with socket.socket() as first, socket.socket() as second:
        store = FdStore()
        told = store.changes([(0, A, first), (1, A, second)])
        assert [(message.text, message.sockets) for message in told] == [
            ("FDSTORE=1\nFDNAME=propylon-0-127.0.0.1-80", (first,)),
            ("FDSTORE=1\nFDNAME=propylon-1-127.0.0.1-80", (second,)),
        ]
        assert store.changes([(0, A, first), (1, A, second)]) == []
        [removed] = store.changes([(0, A, first)])
        assert removed.text == "FDSTOREREMOVE=1\nFDNAME=propylon-1-127.0.0.1-80"


def test_a_socket_keeps_its_name_when_another_slot_has_it() -> None:
    with ExitStack() as stack:
        first, second, third = (stack.enter_context(socket.socket()) for _ in range(3))
        store = FdStore()
        store.changes([(0, A, first), (1, A, second)])
        assert store.changes([(0, A, first), (0, A, second)]) == []
        [added] = store.changes([(0, A, first), (0, A, second), (1, A, third)])
        assert added.text == "FDSTORE=1\nFDNAME=propylon-1-127.0.0.1-80-1"
        assert store.name(third) == "propylon-1-127.0.0.1-80-1"


def test_a_socket_that_slots_share_is_stored_once() -> None:
    with socket.socket() as first, first.dup() as copy:
        [added] = FdStore().changes([(0, A, first), (1, A, copy)])
        assert added.text == "FDSTORE=1\nFDNAME=propylon-0-127.0.0.1-80"


def test_what_came_out_of_the_store_is_in_it() -> None:
    with socket.socket() as stored, socket.socket() as activated:
        store = FdStore([("propylon-0-x", stored)])
        store.leave_out(activated)
        assert store.changes([(0, A, stored), (1, A, activated)]) == []
        assert [message.text for message in store.changes([])] == ["FDSTOREREMOVE=1\nFDNAME=propylon-0-x"]


def test_names_have_no_colon_and_tell_the_slot() -> None:
    name = store_name(12, B)
    assert ":" not in name
    [announced] = read_listen_fds({"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": name}, 1)
    assert (announced.slot, announced.name) == (12, name)
