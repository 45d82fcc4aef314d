"""Packets between master and worker, with descriptors, over a real socketpair."""

import os
import socket
from collections.abc import Iterator

import pytest

from worker.supervisor.messages import (
    Adopt,
    Deadline,
    Drain,
    Failed,
    Pause,
    Ready,
    Release,
    Resume,
    ToMaster,
    ToWorker,
    receive_from_master,
    receive_from_worker,
    send,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


@pytest.mark.parametrize("message", [Pause(), Resume(), Release(3), Drain("reload", 240.0), Deadline(5.0)])
def test_a_worker_understands_its_master(pair: Pair, message: ToWorker) -> None:
    assert send(pair[0], message)
    assert receive_from_master(pair[1]) == (message, [])


@pytest.mark.parametrize("message", [Ready(), Failed("no such file")])
def test_a_master_understands_its_worker(pair: Pair, message: ToMaster) -> None:
    assert send(pair[0], message)
    assert receive_from_worker(pair[1]) == (message, [])


def test_sockets_come_with_a_message(pair: Pair) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        adopt = Adopt(1, ("127.0.0.1:80",))
        assert send(pair[0], adopt, [listening])
        packet = receive_from_master(pair[1])
        assert packet is not None
        assert packet.message == adopt
        with socket.socket(fileno=packet.descriptors[0]) as copy:
            assert copy.getsockname() == listening.getsockname()
            assert not os.get_inheritable(copy.fileno())


@pytest.mark.parametrize("data", [b"ready", b'{"type":"dance"}', b'{"type":"drain"}'])
def test_what_is_not_understood_is_skipped_and_leaks_nothing(pair: Pair, data: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(pair[0], [data], [pair[0].fileno()])
    assert receive_from_master(pair[1]) == (None, [])
    assert len(os.listdir("/proc/self/fd")) == before


def test_fields_of_newer_code_are_ignored(pair: Pair) -> None:
    pair[0].send(b'{"type":"ready","revision":7}')
    assert receive_from_worker(pair[1]) == (Ready(), [])


def test_the_end_is_noticed_and_nobody_waits(pair: Pair) -> None:
    with pytest.raises(BlockingIOError):
        receive_from_worker(pair[1])
    while send(pair[0], Pause()):
        pass  # until the queue of one who does not read is full
    pair[0].close()
    while receive_from_master(pair[1]) is not None:
        pass
    assert not send(pair[1], Ready())
