"""What clients of a worker see when it drains, on real sockets."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import read_response, wait_until
from tests.fakes.scripted import OK, Script, ScriptedUpstream, Talk
from tests.fakes.worker import RunningWorker

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nlength"
CLOSE = b"\r\nConnection: close\r\n"


def answer_all(talk: Talk) -> None:
    while talk.head():
        talk.send(OK)


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(answer_all) as running:
        yield running


@pytest.fixture
def worker(tmp_path: Path, upstream: ScriptedUpstream) -> Iterator[RunningWorker]:
    with RunningWorker(tmp_path, upstream.port, keepalive_min=0.4, close_spread=0.4) as running:
        yield running


def drain(worker: RunningWorker) -> None:
    worker.call(lambda: worker.context.drain("reload"))


def answer(sock: socket.socket) -> bytes:
    """Read one answer whose body is ``ok``, or what there is of it."""
    data = b""
    while not data.endswith(b"\r\n\r\nok") and (piece := sock.recv(1)):
        data += piece
    return data


def test_a_client_that_asks_again_and_again_is_told_before_it_is_closed(worker: RunningWorker) -> None:
    with worker.connect() as sock:
        sock.sendall(GET)
        assert CLOSE not in answer(sock)
        drain(worker)
        sock.sendall(GET)
        assert CLOSE in answer(sock)
        assert sock.recv(1) == b""
    worker.wait_idle()


@pytest.mark.parametrize("has_asked", [True, False])
def test_an_idle_client_is_closed_after_a_while(worker: RunningWorker, has_asked: bool) -> None:
    with worker.connect() as sock:
        if has_asked:
            sock.sendall(GET)
            answer(sock)
        drain(worker)
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert time.monotonic() - began > 0.2
    worker.wait_idle()


def test_idle_clients_are_closed_one_by_one(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with RunningWorker(tmp_path, upstream.port, keepalive_min=0.0, close_spread=1.0) as worker:
        clients = [worker.connect() for _ in range(20)]
        drain(worker)
        counts = set()
        while (left := worker.call(lambda: worker.context.connections)) > 0:
            counts.add(left)
        assert len(counts) > 4
        for sock in clients:
            assert sock.recv(1) == b""
            sock.close()


def test_a_request_that_waits_unread_is_answered(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    with RunningWorker(tmp_path, upstream.port, keepalive_min=0.0, close_spread=0.0) as worker:
        sock = worker.connect()

        def drain_while_it_comes() -> None:
            worker.context.drain("reload")
            sock.sendall(GET)
            # The worker looks after its clients before it reads.
            worker.context.now = worker.loop.time()
            worker.context._janitor._check_clients(0)

        worker.call(drain_while_it_comes)
        assert CLOSE in answer(sock)
        sock.close()


def test_who_is_still_being_sent_the_last_answer_is_not_idle(tmp_path: Path) -> None:
    size = 1 << 20

    def script(talk: Talk) -> None:
        while talk.head():
            talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)

    with (
        ScriptedUpstream(script) as upstream,
        RunningWorker(tmp_path, upstream.port, keepalive_min=0.2, close_spread=0.0) as worker,
        worker.connect(receive_buffer=4096) as sock,
    ):
        sock.sendall(GET)
        wait_until(lambda: worker.context.requests == 1, "the answer has been passed on, as far as we know")
        drain(worker)
        time.sleep(0.6)  # several times what an idle client has
        assert read_response(sock) == (200, b"x" * size)
        sock.sendall(GET)
        assert read_response(sock) == (200, b"x" * size)
        assert sock.recv(1) == b""


@pytest.mark.parametrize("data", [GET, POST])
@pytest.mark.parametrize("sent", [5, 40, len(POST) - 2])
def test_a_request_that_has_begun_is_answered(worker: RunningWorker, data: bytes, sent: int) -> None:
    sent = min(sent, len(data) - 1)
    with worker.connect() as sock:
        sock.sendall(data[:sent])
        wait_until(lambda: worker.call(lambda: "IDLE" not in repr(_only(worker))), "some of it has come")
        drain(worker)
        time.sleep(0.6)  # more than an idle client has
        sock.sendall(data[sent:])
        assert CLOSE in answer(sock)
    worker.wait_idle()


def _only(worker: RunningWorker) -> object:
    (connection,) = worker.context.downstream_connections
    return connection


def test_what_was_sent_ahead_is_answered(tmp_path: Path) -> None:
    with ScriptedUpstream(_held()) as upstream, RunningWorker(tmp_path, upstream.port) as worker:
        with worker.connect() as sock:
            sock.sendall(GET * 3 + GET[:9])
            wait_until(lambda: upstream.accepted, "the first is under way")
            drain(worker)
            assert CLOSE not in answer(sock)
            assert CLOSE not in answer(sock)
            assert CLOSE not in answer(sock)
            sock.sendall(GET[9:])
            assert CLOSE in answer(sock)
            assert sock.recv(1) == b""
        worker.wait_idle()


def test_a_drain_can_be_taken_back(tmp_path: Path) -> None:
    with (
        ScriptedUpstream(_held()) as upstream,
        RunningWorker(tmp_path, upstream.port, keepalive_min=0.1, close_spread=0.1) as worker,
        worker.connect() as idle,
        worker.connect() as busy,
    ):
        busy.sendall(GET)
        wait_until(lambda: upstream.accepted, "it is under way")
        drain(worker)
        worker.call(worker.context.undo_drain)
        assert CLOSE not in answer(busy)
        time.sleep(0.5)  # more than an idle client would have
        for sock in (idle, busy):
            sock.sendall(GET)
            assert CLOSE not in answer(sock)
        drain(worker)
        assert busy.recv(1) == b""


def _held() -> Script:
    def script(talk: Talk) -> None:
        while talk.head():
            time.sleep(0.2)
            talk.send(OK)

    return script


def test_idle_upstream_connections_go_with_the_clients(worker: RunningWorker, upstream: ScriptedUpstream) -> None:
    clients = [worker.connect() for _ in range(4)]
    for sock in clients:
        sock.sendall(GET)
    for sock in clients:
        answer(sock)
    pooled = upstream.connections()
    assert pooled >= 1
    drain(worker)
    clients[0].sendall(GET)
    assert CLOSE in answer(clients[0])
    for sock in clients:
        sock.close()
    wait_until(lambda: upstream.connections() == 0, "no upstream connection is left")
