"""Request bodies: sent again on another node, held back, too large, too slow."""

import contextlib
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from tests.fakes.processes import Gateway, read_response, wait_until
from tests.fakes.scripted import OK, ScriptedUpstream, Talk, refusing_to_close
from tests.integration.upstreams.conftest import MAX_BODY_BYTES, Site, Sites, in_turn, resident, rest

MIB = 1 << 20
BODY = bytes(range(256)) * 40_960  # 10 MiB
SHORT = {"connect": 0.3, "send": 0.3, "read": 0.3}


def chunked(body: bytes, size: int = 50_000) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nX-Sum: 1\r\n\r\n"


def digesting(talk: Talk) -> None:
    """Answer with the digest of each body."""
    while head := talk.head():
        if b"\r\nTransfer-Encoding: chunked\r\n" in head:
            digest = hashlib.sha256()
            while size := int(talk.until(b"\r\n") or b"0", 16):
                digest.update(talk.exactly(size + 2)[:-2])
            trailers = talk.until(b"\r\n\r\n")
            text = digest.hexdigest() + ("+trailer" if trailers == b"X-Sum: 1\r\n\r\n" else "")
        else:
            length = int(head.partition(b"\r\nContent-Length: ")[2].split(b"\r\n")[0])
            text = hashlib.sha256(talk.exactly(length)).hexdigest()
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text.encode()))


def put(asked: Site, data: bytes, fields: str, method: str = "PUT") -> tuple[int, bytes]:
    """Send a body from a thread of its own, as the answer may come before all of it has been taken."""
    with asked.connect() as sock:

        def send() -> None:
            with contextlib.suppress(OSError):  # cut
                sock.sendall(asked.head(method, fields=fields) + data)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            return read_response(sock)
        finally:
            sock.shutdown(2)
            sender.join()


def files_of(gateway: Gateway) -> list[str]:
    """Return the files below the directory for bodies that workers have open."""
    names = []
    for pid in gateway.workers():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                names.append(os.readlink(fd))
            except OSError:
                continue
    return [name for name in names if "/bodies/" in name]


@pytest.mark.parametrize("received", [0, 1, 60_000, 70_000, 1_000_000, 9_000_000, len(BODY)])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_is_sent_again_whole(site: Sites, gateway: Gateway, received: int, is_chunked: bool) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.exactly(received)
        talk.reset()

    with ScriptedUpstream(script) as failing, ScriptedUpstream(digesting) as other:
        asked = site(in_turn(failing.node, other.node))
        expected = hashlib.sha256(BODY).hexdigest().encode()
        if is_chunked:
            answer = put(asked, chunked(BODY), "Transfer-Encoding: chunked\r\n")
            assert answer == (200, expected + b"+trailer")
        else:
            assert put(asked, BODY, f"Content-Length: {len(BODY)}\r\n") == (200, expected)
        assert failing.accepted == 1
        wait_until(lambda: not files_of(gateway), "the file is closed")


def test_a_body_is_sent_a_third_time(site: Sites) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.exactly(3_000_000)
        talk.reset()

    with (
        ScriptedUpstream(script) as first,
        ScriptedUpstream(script) as second,
        ScriptedUpstream(digesting) as third,
    ):
        asked = site(in_turn(first.node, second.node, third.node))
        answer = put(asked, BODY, f"Content-Length: {len(BODY)}\r\n")
        assert answer == (200, hashlib.sha256(BODY).hexdigest().encode())


def test_small_bodies_are_sent_again_at_every_byte(site: Sites) -> None:
    taken = 0

    def script(talk: Talk) -> None:
        talk.head()
        talk.exactly(taken)
        talk.reset()

    coded = chunked(b"hello")
    with ScriptedUpstream(script) as failing, ScriptedUpstream(digesting) as other:
        asked = site(in_turn(failing.node, other.node))
        expected = hashlib.sha256(b"hello").hexdigest().encode()
        with asked.connect() as sock:
            for taken in range(len(coded) + 1):  # noqa: B007 - the script looks at it
                sock.sendall(asked.head("PUT", fields="Transfer-Encoding: chunked\r\n") + coded)
                assert read_response(sock) == (200, expected + b"+trailer")


def test_what_is_kept_for_another_try_is_in_a_file(site: Sites, gateway: Gateway) -> None:
    (pid,) = gateway.workers()
    size = 48 * MIB
    assert size < MAX_BODY_BYTES
    seen: list[tuple[int, list[str]]] = []

    def script(talk: Talk) -> None:
        talk.head()
        for _ in range(size // MIB):
            talk.exactly(MIB)
        seen.append((resident(pid), files_of(gateway)))
        talk.reset()

    with ScriptedUpstream(script) as failing, ScriptedUpstream(digesting) as other:
        asked = site(in_turn(failing.node, other.node))
        before = resident(pid)
        body = os.urandom(MIB) * (size // MIB)
        answer = put(asked, body, f"Content-Length: {size}\r\n")
        assert answer == (200, hashlib.sha256(body).hexdigest().encode())
        during, files = seen[0]
        assert during - before < 8 * MIB
        assert len(files) == 1
        assert files[0].endswith(" (deleted)")
        wait_until(lambda: not files_of(gateway), "the file is closed")


def test_nothing_is_kept_that_cannot_be_sent_again(site: Sites, gateway: Gateway) -> None:
    seen: list[list[str]] = []

    def script(talk: Talk) -> None:
        while talk.head():
            talk.exactly(len(BODY))
            seen.append(files_of(gateway))
            talk.send(OK)

    with ScriptedUpstream(script) as upstream, ScriptedUpstream(script) as other:
        fields = f"Content-Length: {len(BODY)}\r\n"
        assert put(site({upstream.node: 1}), BODY, fields)[0] == 200
        assert put(site(in_turn(upstream.node, other.node)), BODY, fields, "POST")[0] == 200
        assert put(site(in_turn(upstream.node, other.node), retries=0), BODY, fields)[0] == 200
        assert seen == [[], [], []]


def test_the_file_goes_when_the_answer_begins(site: Sites, gateway: Gateway) -> None:
    ended = threading.Event()

    def script(talk: Talk) -> None:
        talk.head()
        talk.exactly(len(BODY))
        talk.send(OK[:-1])
        ended.wait(20)
        talk.send(OK[-1:])

    with ScriptedUpstream(script) as upstream, ScriptedUpstream(script) as other:
        asked = site(in_turn(upstream.node, other.node))
        with asked.connect() as sock:
            sock.sendall(asked.head("PUT", fields=f"Content-Length: {len(BODY)}\r\n") + BODY)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
            wait_until(lambda: not files_of(gateway), "the file is closed")
            ended.set()


def test_bodies_larger_than_allowed(site: Sites, gateway: Gateway) -> None:
    with ScriptedUpstream(digesting) as upstream, ScriptedUpstream(digesting) as other:
        for nodes in ({upstream.node: 1}, in_turn(upstream.node, other.node)):
            body = b"x" * (MAX_BODY_BYTES + 1)
            assert put(site(nodes), chunked(body, MIB), "Transfer-Encoding: chunked\r\n")[0] == 413
            assert put(site(nodes), b"", f"Content-Length: {len(body)}\r\n")[0] == 413
        wait_until(lambda: upstream.connections() == other.connections() == 0, "no connection is left")
        wait_until(lambda: not files_of(gateway), "the file is closed")


def test_an_upstream_that_takes_no_bytes(site: Sites) -> None:
    released = threading.Event()

    def script(talk: Talk) -> None:
        talk.head()
        released.wait(20)

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1}, timeout=SHORT)
        size = 60 * MIB
        assert put(asked, b"x" * size, f"Content-Length: {size}\r\n")[0] == 504
        assert "takes no bytes" in asked.gateway.log()
        wait_until(lambda: upstream.connections() == 0, "no connection is left")
        released.set()


def test_an_upstream_that_takes_bytes_slowly(site: Sites) -> None:
    """Its buffers empty more slowly than ``timeout.send``, but never for so long without any progress."""
    size = 16 * MIB

    def script(talk: Talk) -> None:
        talk.head()
        left = size
        slow_until = time.monotonic() + 2.5
        while left and (data := talk.some()):
            left -= len(data)
            if time.monotonic() < slow_until:
                time.sleep(0.04)
        talk.send(OK)

    with ScriptedUpstream(script, receive_buffer=65_536) as upstream:
        asked = site({upstream.node: 1}, timeout={"connect": 1, "send": 1, "read": 20})
        assert put(asked, b"x" * size, f"Content-Length: {size}\r\n") == (200, b"ok")


def test_a_slow_client_is_not_the_upstreams_fault(site: Sites) -> None:
    with ScriptedUpstream(digesting) as upstream:
        asked = site({upstream.node: 1}, timeout=SHORT)
        with asked.connect() as sock:
            sock.sendall(asked.head("POST", fields="Content-Length: 5\r\n"))
            for at in range(5):
                time.sleep(0.4)
                sock.sendall(b"hello"[at : at + 1])
            assert read_response(sock) == (200, hashlib.sha256(b"hello").hexdigest().encode())


def test_a_client_that_stops_within_its_body(site: Sites) -> None:
    with ScriptedUpstream(refusing_to_close(OK)) as upstream:

        def script(talk: Talk) -> None:
            talk.head()
            talk.wait_closed()

        upstream.script = script
        asked = site({upstream.node: 1})
        with asked.connect() as sock:
            sock.sendall(asked.head("POST", fields="Content-Length: 5\r\n") + b"he")
            assert rest(sock).startswith(b"HTTP/1.1 408 ")
        with asked.connect() as sock:
            sock.sendall(asked.head("POST", fields="Content-Length: 5\r\n") + b"he")
            wait_until(lambda: upstream.connections() == 1, "the request is with the upstream")
        wait_until(lambda: upstream.connections() == 0, "no connection is left")


def test_a_condition_on_the_body(site: Sites, gateway: Gateway) -> None:
    """The body is read before the route is known, and sent on whole, in whatever pieces it comes."""
    form = "Content-Type: application/x-www-form-urlencoded\r\n"
    with ScriptedUpstream(digesting) as upstream:
        asked = site({upstream.node: 1}, {"vars": [["post_arg_who", "==", "me"]]})
        for filler in (0, 100_000, 900_000):
            body = b"filler=" + b"x" * filler + b"&who=me"
            expected = 200, hashlib.sha256(body).hexdigest().encode()
            assert put(asked, body, f"{form}Content-Length: {len(body)}\r\n", "POST") == expected
            assert put(asked, body[:-1] + b"X", f"{form}Content-Length: {len(body)}\r\n", "POST")[0] == 404
        assert put(asked, chunked(b"who=me", 2), f"{form}Transfer-Encoding: chunked\r\n", "POST")[0] == 200
        wait_until(lambda: not files_of(gateway), "the file is closed")
