"""WebSockets when the worker has to end: each side gets a Close frame, at a place where one may stand."""

import socket
import threading
from pathlib import Path

import pytest

from tests.fakes.processes import wait_until
from tests.fakes.scripted import ScriptedUpstream, Talk, reset
from tests.fakes.worker import RunningWorker
from worker.context import Reason
from worker.http.websocket import GOING_AWAY, SERVICE_RESTART, close_frame

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: %b\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: %b\r\nConnection: Upgrade\r\n\r\n"
TEXT = b"\x81\x05hello"
MASKED_TEXT = b"\x81\x85\0\0\0\0hello"
TO_CLIENT = {"reload": close_frame(SERVICE_RESTART), "stop": close_frame(GOING_AWAY)}
FROM_CLIENT = close_frame(SERVICE_RESTART, b"mask")


class Peer:
    """An upstream that switches protocols, and whose bytes the test sends and reads."""

    def __init__(self, protocol: bytes = b"websocket") -> None:
        self._protocol = protocol
        self._may_end = threading.Event()
        self.talk: Talk

    def __call__(self, talk: Talk) -> None:
        talk.head()
        self.talk = talk
        talk.send(SWITCHING % self._protocol)
        self._may_end.wait(20)

    def end(self) -> None:
        """Close the connection."""
        self._may_end.set()


def upgraded(worker: RunningWorker, protocol: bytes = b"websocket") -> socket.socket:
    sock = worker.connect()
    sock.sendall(UPGRADE % protocol)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    wait_until(lambda: worker.context.tunnels, "the tunnel")
    return sock


def finish(worker: RunningWorker, reason: Reason = "reload") -> None:
    worker.call(lambda: worker.context.drain(reason))
    worker.call(worker.context.finish)


def unmasked(wire: bytes) -> bytes:
    """Return the payload of a small frame of a client's."""
    assert wire[1] & 128
    return bytes(byte ^ wire[2 + at % 4] for at, byte in enumerate(wire[6:]))


def passed(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := sock.recv(count - len(data))):
        data += piece
    return data


@pytest.mark.parametrize("reason", ["reload", "stop"])
def test_both_sides_are_told_and_answer(tmp_path: Path, reason: Reason) -> None:
    peer = Peer()
    with ScriptedUpstream(peer) as upstream, RunningWorker(tmp_path, upstream.port) as worker:
        with upgraded(worker) as sock:
            sock.sendall(MASKED_TEXT)
            assert peer.talk.exactly(len(MASKED_TEXT)) == MASKED_TEXT
            peer.talk.send(TEXT)
            assert passed(sock, len(TEXT)) == TEXT
            worker.call(lambda: worker.context.drain(reason))
            peer.talk.send(TEXT)
            assert passed(sock, len(TEXT)) == TEXT  # a drain alone changes nothing
            worker.call(worker.context.finish)
            assert passed(sock, 4) == TO_CLIENT[reason]
            told = peer.talk.exactly(8)
            assert (told[0], unmasked(told)) == (0x88, b"\x03\xe9")
            sock.sendall(FROM_CLIENT)
            peer.talk.send(close_frame(GOING_AWAY))
            assert sock.recv(1) == b""
            assert peer.talk.exactly(1) == b""
            peer.end()
        worker.wait_idle()
        assert not worker.context.tunnels


def test_the_frame_under_way_comes_first(tmp_path: Path) -> None:
    peer = Peer()
    with (
        ScriptedUpstream(peer) as upstream,
        RunningWorker(tmp_path, upstream.port) as worker,
        upgraded(worker) as sock,
    ):
        peer.talk.send(TEXT[:3])
        sock.sendall(MASKED_TEXT[:1])
        assert passed(sock, 3) == TEXT[:3]
        assert peer.talk.exactly(1) == MASKED_TEXT[:1]
        finish(worker)
        peer.talk.send(TEXT[3:] + TEXT + TEXT)
        sock.sendall(MASKED_TEXT[1:] + MASKED_TEXT)
        assert passed(sock, len(TEXT) - 3 + 4) == TEXT[3:] + TO_CLIENT["reload"]
        wire = peer.talk.exactly(len(MASKED_TEXT) - 1 + 8)
        assert wire.startswith(MASKED_TEXT[1:] + b"\x88\x82")
        peer.end()
        assert sock.recv(1) == b""


def test_a_frame_that_does_not_end_is_cut(tmp_path: Path) -> None:
    peer = Peer()
    with (
        ScriptedUpstream(peer) as upstream,
        RunningWorker(tmp_path, upstream.port) as worker,
        upgraded(worker) as sock,
    ):
        peer.talk.send(TEXT[:3])
        assert passed(sock, 3) == TEXT[:3]
        finish(worker)
        assert sock.recv(1) == b""
        assert unmasked(peer.talk.exactly(8)) == b"\x03\xe9"  # this way there was no frame
        assert peer.talk.exactly(1) == b""
        peer.end()


def test_who_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    peer = Peer()
    with (
        ScriptedUpstream(peer) as upstream,
        RunningWorker(tmp_path, upstream.port) as worker,
        upgraded(worker) as sock,
    ):
        finish(worker)
        assert passed(sock, 5) == TO_CLIENT["reload"]
        assert len(peer.talk.exactly(9)) == 8
        peer.end()


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_a_side_that_has_said_good_bye_itself_gets_no_second_close(tmp_path: Path, who: str) -> None:
    peer = Peer()
    with (
        ScriptedUpstream(peer) as upstream,
        RunningWorker(tmp_path, upstream.port) as worker,
        upgraded(worker) as sock,
    ):
        if who == "client":
            sock.sendall(FROM_CLIENT)
            assert peer.talk.exactly(len(FROM_CLIENT)) == FROM_CLIENT
            finish(worker)
            assert passed(sock, 5) == TO_CLIENT["reload"]
            assert peer.talk.exactly(1) == b""
        else:
            peer.talk.send(close_frame(GOING_AWAY))
            assert passed(sock, 4) == close_frame(GOING_AWAY)
            finish(worker)
            assert len(peer.talk.exactly(9)) == 8
            assert sock.recv(1) == b""
        peer.end()


def test_another_protocol_is_left_alone(tmp_path: Path) -> None:
    peer = Peer(b"other")
    with (
        ScriptedUpstream(peer) as upstream,
        RunningWorker(tmp_path, upstream.port) as worker,
        upgraded(worker, b"other") as sock,
    ):
        finish(worker)
        sock.sendall(b"\x81")
        assert peer.talk.exactly(1) == b"\x81"
        peer.talk.send(b"\x81")
        assert passed(sock, 1) == b"\x81"
        peer.end()
        assert sock.recv(1) == b""


def test_a_reset_meanwhile(tmp_path: Path) -> None:
    peer = Peer()
    with ScriptedUpstream(peer) as upstream, RunningWorker(tmp_path, upstream.port) as worker:
        sock = upgraded(worker)
        finish(worker)
        assert passed(sock, 4) == TO_CLIENT["reload"]
        reset(sock)
        worker.wait_idle()
        peer.end()
