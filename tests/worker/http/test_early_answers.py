"""Answers of upstreams that do not wait for the request's body, on real sockets."""

import socket
import threading
from pathlib import Path

import pytest

from tests.fakes.scripted import ScriptedUpstream, Talk
from tests.fakes.worker import RunningWorker

REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\n\r\nrefused"
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n"


@pytest.mark.parametrize("attempt", range(3))
def test_an_answer_followed_by_a_reset_reaches_the_client(tmp_path: Path, attempt: int) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.send(REFUSAL)  # closed with bytes of the body unread: the kernel resets the connection

    with (
        ScriptedUpstream(script) as upstream,
        RunningWorker(tmp_path, upstream.port) as worker,
        worker.connect() as sock,
    ):
        sender = threading.Thread(target=_upload, args=(sock,))
        sender.start()
        data = b""
        while not data.endswith(b"refused") and (piece := sock.recv(65536)):
            data += piece
        sock.shutdown(socket.SHUT_RDWR)
        sender.join()
    assert data.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in data


def _upload(sock: socket.socket) -> None:
    try:
        sock.sendall(UPLOAD)
        while True:
            sock.sendall(b"x" * 65536)
    except OSError:
        pass
