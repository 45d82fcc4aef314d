"""Who gets new connections: the programs by themselves, and in the kernel."""

import contextlib
import errno
import os
import pwd
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.processes import wait_until
from worker.supervisor.steering import (
    JUMP_IF_EQUAL,
    LOAD_WORD,
    MODULO,
    RETURN,
    RETURN_ACCUMULATOR,
    Program,
    choose_among,
    seal,
    steer,
)


def run_program(program: Program, number: int) -> int:
    """Do what the kernel's interpreter does when this is the random number."""
    assert len(program) <= 4096  # BPF_MAXINSNS
    at, accumulator = 0, 0
    while True:
        step = program[at]
        at += 1
        if step.code == LOAD_WORD:
            accumulator = number
        elif step.code == MODULO:
            accumulator %= step.k
        elif step.code == JUMP_IF_EQUAL:
            at += step.if_true if accumulator == step.k else step.if_false
        elif step.code == RETURN:
            return step.k
        else:
            assert step.code == RETURN_ACCUMULATOR
            return accumulator


@given(st.sets(st.integers(0, 40), min_size=1))
def test_each_wanted_socket_is_chosen_as_often_as_any_other(indexes: set[int]) -> None:
    program = choose_among(sorted(indexes))
    chosen = Counter(run_program(program, number) for number in range(3 * len(indexes)))
    assert chosen == dict.fromkeys(indexes, 3)


def test_a_program_for_the_greatest_group_is_not_too_long() -> None:
    wanted = range(1024, 2048)
    program = choose_among(wanted)
    assert {run_program(program, number) for number in range(1024)} == set(wanted)


class Group:
    """A reuseport group of real sockets."""

    def __init__(self, host: str, size: int, stack: ExitStack, port: int = 0) -> None:
        self._stack = stack
        self._port = port
        self.sockets: list[socket.socket] = []
        for _ in range(size):
            self.add(host)

    def add(self, host: str) -> None:
        sock = self._stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, self.address[1] if self.sockets else self._port))
        sock.listen(256)
        sock.setblocking(False)
        self.sockets.append(sock)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.sockets[0].getsockname()[:2]
        return host, port

    def connect(self, count: int) -> list[int]:
        """Open connections; returns how many each socket has got."""
        for _ in range(count):
            client = self._stack.enter_context(socket.socket(self.sockets[0].family))
            client.settimeout(10)
            client.connect(self.address)
        got = [0] * len(self.sockets)

        def is_all_accepted() -> bool:
            for at, sock in enumerate(self.sockets):
                got[at] += accept_all(sock)
            return sum(got) == count

        wait_until(is_all_accepted, "all are accepted")
        return got


def accept_all(sock: socket.socket) -> int:
    accepted = 0
    while True:
        try:
            sock.accept()[0].close()
        except OSError:
            return accepted
        accepted += 1


@pytest.fixture(params=["127.0.0.1", "::1"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    with ExitStack() as stack:
        yield Group(request.param, 4, stack)


@pytest.mark.parametrize("indexes", [[0], [3], [1, 2], [0, 2, 3]])
def test_the_kernel_does_what_the_program_says(group: Group, indexes: Sequence[int]) -> None:
    steer(group.sockets[0], choose_among(indexes))
    got = group.connect(20 * len(indexes))
    assert {at for at, count in enumerate(got) if count} == set(indexes)


def test_the_hash_chooses_again_without_a_program(group: Group) -> None:
    steer(group.sockets[0], choose_among([1]))
    assert group.connect(5) == [0, 5, 0, 0]
    steer(group.sockets[3], None)
    steer(group.sockets[3], None)  # when there is none, that is as well
    assert all(group.connect(200))


def test_the_last_socket_takes_the_index_of_one_that_goes(group: Group) -> None:
    group.sockets.pop(1).shutdown(socket.SHUT_RD)
    steer(group.sockets[0], choose_among([1]))
    assert group.connect(5) == [0, 0, 5]


def test_a_socket_that_comes_has_the_next_index(group: Group) -> None:
    steer(group.sockets[0], choose_among([4]))
    assert all(group.connect(200))  # by hash: there is no such index
    group.add(group.address[0])
    assert group.connect(5) == [0, 0, 0, 0, 5]


def test_a_sealed_address_refuses_and_who_is_on_the_way_comes(group: Group) -> None:
    for sock in group.sockets:
        # Here the handshake is finished only when the client sends something.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(group.address, timeout=10)) for _ in range(20)]
        assert not any(accept_all(sock) for sock in group.sockets)
        for sock in group.sockets:
            seal(sock)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(group.address, timeout=10)
        for client in clients:
            client.sendall(b"ping")
        accepted: list[socket.socket] = []

        def is_all_accepted() -> bool:
            for sock in group.sockets:
                with contextlib.suppress(BlockingIOError):
                    accepted.append(stack.enter_context(sock.accept()[0]))
            return len(accepted) == len(clients)

        wait_until(is_all_accepted, "all are accepted")
        for served in accepted:
            assert served.recv(4) == b"ping"
            served.sendall(b"pong")
        for client in clients:
            assert client.recv(4) == b"pong"


def test_a_sealed_address_can_be_had_anew(group: Group) -> None:
    old = group.sockets
    for sock in old:
        seal(sock)
    with ExitStack() as stack:
        renewed = Group(group.address[0], 2, stack, group.address[1])
        steer(renewed.sockets[0], choose_among([1]))
        assert renewed.connect(5) == [0, 5]
        assert not any(accept_all(sock) for sock in old)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_no_privilege_is_needed() -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            account = pwd.getpwnam("nobody")
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            with ExitStack() as stack:
                group = Group("127.0.0.1", 3, stack)
                steer(group.sockets[0], choose_among([2]))
                steered = group.connect(5)
                for sock in group.sockets:
                    seal(sock)
                late = stack.enter_context(socket.socket())
                refused = late.connect_ex(group.address)
            code = 0 if steered == [0, 0, 5] and refused == errno.ECONNREFUSED else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_kernel_that_cannot_is_an_error() -> None:
    left, right = socket.socketpair()
    with left, right, pytest.raises(OSError, match=r"Errno"):
        steer(left, choose_among([0]))
