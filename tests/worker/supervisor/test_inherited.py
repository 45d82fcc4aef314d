"""What is made of the descriptors a process was born with."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from config_sync.settings import Address
from worker.supervisor.inherited import Announced, Inherited, allot, read_handover, read_listen_fds, take

A, B = Address("127.0.0.1", 1), Address("127.0.0.1", 2)


def test_what_systemd_announces_is_read() -> None:
    variables = {"LISTEN_PID": "7", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "propylon.socket:propylon-2-127.0.0.1-80:x"}
    assert read_listen_fds(variables, 7) == [
        Announced(3, is_activated=True),
        Announced(4, 2, "propylon-2-127.0.0.1-80"),
        Announced(5, is_activated=True),
    ]
    assert read_listen_fds({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, 7) == [
        Announced(3, is_activated=True),
        Announced(4, is_activated=True),
    ]


@pytest.mark.parametrize("variables", [{}, {"LISTEN_PID": "8", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}])
def test_what_is_for_another_process_is_not_ours(variables: dict[str, str]) -> None:
    assert read_listen_fds(variables, 7) == []


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, "LISTEN_FDS"),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, "1 names for 2"),
    ],
)
def test_contradictions_are_refused(variables: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_listen_fds(variables, 7)


def test_a_handover_is_read() -> None:
    assert read_handover({}) is None
    read = read_handover({"PROPYLON_LISTENERS": '{"channel": 9, "listeners": [{"fd": 5, "slot": 1}], "revision": 3}'})
    assert read is not None
    assert (read.channel, read.listeners, read.revision) == (9, (Announced(5, 1),), 3)
    with pytest.raises(ValueError, match="PROPYLON_LISTENERS"):
        read_handover({"PROPYLON_LISTENERS": "{"})


class Openers:
    """Descriptors as a process finds them that was born with them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def listening(self, reuse: bool = True, family: int = socket.AF_INET) -> tuple[int, Address]:
        """Return a descriptor of a listening socket, and its address."""
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse))
        sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        sock.listen()
        address = Address(*sock.getsockname()[:2])
        return sock.detach(), address

    def take(self, *announced: Announced) -> list[Inherited]:
        """Take them, and close at the end of the test what was taken."""
        taken = take(announced)
        for each in taken:
            self._stack.enter_context(each.sock)
        return taken


@pytest.fixture
def openers() -> Iterator[Openers]:
    with ExitStack() as stack:
        yield Openers(stack)


def test_sockets_are_known_by_their_address(openers: Openers) -> None:
    fd4, address4 = openers.listening()
    fd6, address6 = openers.listening(reuse=False, family=socket.AF_INET6)
    taken = openers.take(Announced(fd4, 3, "propylon-3-x"), Announced(fd6))
    assert [(each.address, each.slot) for each in taken] == [
        (address4, 3),
        (address6, None),
    ]
    assert not any(each.sock.get_inheritable() for each in taken)


def test_what_is_no_listening_socket_is_closed(openers: Openers, caplog: pytest.LogCaptureFixture) -> None:
    quiet = socket.socket()
    fds = [quiet.detach(), os.open("/dev/null", os.O_RDONLY)]
    caplog.set_level(logging.WARNING)
    assert openers.take(*map(Announced, fds)) == []
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        assert f"descriptor {fd}, which we were given" in caplog.text


def test_a_socket_that_came_twice_is_taken_once_for_its_slot(openers: Openers) -> None:
    fd, _ = openers.listening()
    again = os.dup(fd)
    assert [(each.slot, each.name) for each in openers.take(Announced(fd), Announced(again, 1, "n"))] == [(1, "n")]


def given_sockets(stack: ExitStack, *what: tuple[Address, int | None]) -> list[Inherited]:
    return [Inherited(stack.enter_context(socket.socket()), address, slot, "", False) for address, slot in what]


def test_sockets_go_where_they_were_and_the_others_where_there_is_room() -> None:
    with ExitStack() as stack:
        a1, a0, anywhere, elsewhere = given_sockets(stack, (A, 1), (A, None), (A, None), (B, None))
        slots, unwanted = allot([a1, a0, anywhere, elsewhere], [A], 3)
        assert slots == [[(A, a0.sock)], [(A, a1.sock)], [(A, anywhere.sock)]]
        assert unwanted == [(B, elsewhere.sock)]


def test_more_sockets_than_slots_make_more_slots() -> None:
    with ExitStack() as stack:
        inherited = given_sockets(stack, (A, 0), (A, 3))
        slots, _ = allot(inherited, [A], 2)
        assert [len(listeners) for listeners in slots] == [1, 0, 0, 1]
