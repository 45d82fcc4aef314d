"""The last answer reaches its client, whatever that still sends, on real sockets."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import wait_until
from tests.fakes.scripted import ScriptedUpstream, Talk
from tests.fakes.worker import RunningWorker

SIZE = 2 << 20
CLOSING = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"


def answer_largely(talk: Talk) -> None:
    while talk.head():
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE + b"x" * SIZE)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[RunningWorker]:
    with ScriptedUpstream(answer_largely) as upstream, RunningWorker(tmp_path, upstream.port) as running:
        yield running


def slowly(sock: socket.socket) -> int:
    """Read to the end, late, and count the bytes of the body; a reset is an error."""
    time.sleep(0.3)
    data = b""
    while piece := sock.recv(1 << 20):
        data += piece
    return len(data.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize("behind", [GET, b"\r\n", b"no request at all", GET * 2000])
def test_requests_behind_one_that_closes(worker: RunningWorker, behind: bytes) -> None:
    with worker.connect(receive_buffer=65536) as sock:
        sock.sendall(CLOSING + behind)
        assert slowly(sock) == SIZE
    worker.wait_idle()


def test_requests_that_come_after_the_last_answer(worker: RunningWorker) -> None:
    with worker.connect(receive_buffer=65536) as sock:
        worker.call(lambda: worker.context.drain("stop"))
        sock.sendall(GET)
        wait_until(lambda: worker.context.lingering, "the last answer is on its way")
        sock.sendall(GET)
        assert slowly(sock) == SIZE
    worker.wait_idle()


def test_a_body_that_is_refused(tmp_path: Path) -> None:
    with (
        ScriptedUpstream() as upstream,
        RunningWorker(tmp_path, upstream.port, client_max_body_size=1000) as worker,
        worker.connect() as sock,
    ):
        sock.sendall(UPLOAD)
        for _ in range(100):
            sock.sendall(b"x" * 65536)
        assert sock.recv(12) == b"HTTP/1.1 413"
        while sock.recv(65536):
            pass


def test_an_answer_before_the_body(tmp_path: Path) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % SIZE + b"x" * SIZE)
        talk.wait_closed()

    with (
        ScriptedUpstream(script) as upstream,
        RunningWorker(tmp_path, upstream.port) as worker,
        worker.connect(receive_buffer=65536) as sock,
    ):
        sock.sendall(UPLOAD + b"x" * 1000)
        wait_until(lambda: worker.context.lingering, "the answer is on its way")
        sock.sendall(b"x" * 1000)
        assert slowly(sock) == SIZE


def test_who_never_closes_is_given_up(worker: RunningWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.http.lingering.LINGERING_TIMEOUT", 0.5)
    with worker.connect() as sock:
        sock.sendall(CLOSING + GET)
        assert slowly(sock) == SIZE
        worker.wait_idle()


def test_who_takes_nothing_is_given_up(tmp_path: Path) -> None:
    size = 32 << 20  # more than the kernel takes

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)

    with (
        ScriptedUpstream(script) as upstream,
        RunningWorker(tmp_path, upstream.port, send_timeout=1.0) as worker,
        worker.connect(receive_buffer=4096) as sock,
    ):
        sock.sendall(CLOSING + GET)
        worker.wait_idle()
        with contextlib.suppress(ConnectionResetError):
            assert slowly(sock) < size
