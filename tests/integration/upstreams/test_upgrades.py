"""Upgrades: what is passed on, the tunnel that comes of a 101, and its end (upstreams.md section 9)."""

import json
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.fakes.certificates import Certificates
from tests.fakes.processes import Etcd, Gateway, read_response, wait_until
from tests.fakes.scripted import OK, ScriptedUpstream, Talk, refusing_to_close, reset
from tests.integration.upstreams.conftest import Site, Sites, resident, rest
from worker.http.websocket import SERVICE_RESTART, close_frame

MIB = 1 << 20
UPGRADE = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Key: abc\r\n"
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
)
ENABLED: dict[str, object] = {"enable_websocket": True}


def echo(talk: Talk) -> None:
    """Switch, then say everything again."""
    if b"\r\nUpgrade: websocket\r\n" not in talk.head():
        talk.send(OK)
        return
    talk.send(SWITCHING)
    while data := talk.some():
        talk.send(data)


def upgraded(asked: Site, early: bytes = b"", expect: bytes = b"") -> socket.socket:
    """Return a client connection behind its 101."""
    sock = asked.connect()
    sock.sendall(asked.head(fields=UPGRADE) + early)
    assert received(sock, len(head_of_101()) + len(expect)) == head_of_101() + expect
    return sock


def head_of_101() -> bytes:
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nServer: propylon\r\nSec-WebSocket-Accept: x\r\n"
        b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n"
    )


def received(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def test_both_ways(site: Sites) -> None:
    with ScriptedUpstream(echo) as upstream:
        with upgraded(site({upstream.node: 1}, ENABLED)) as sock:
            for text in (b"one", b"two", b"\x00\xff" * 50_000):
                sock.sendall(text)
                assert received(sock, len(text)) == text
        wait_until(lambda: upstream.connections() == 0, "no connection is left")


def test_the_request_that_is_passed_on(site: Sites) -> None:
    heads: list[bytes] = []

    def script(talk: Talk) -> None:
        heads.append(talk.head())
        talk.send(OK)

    with ScriptedUpstream(script) as upstream:
        site({upstream.node: 1}, ENABLED).ask(fields=UPGRADE)
        site({upstream.node: 1}, ENABLED, pass_host="node").ask(fields=UPGRADE)
        for head in heads:
            assert head.endswith(b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert head.count(b"pgrade: ") == 1
            assert b"\r\nSec-WebSocket-Key: abc\r\n" in head
        assert len(heads) == 2


@pytest.mark.parametrize(
    ("route", "service", "enabled"),
    [
        ({}, None, False),
        ({"enable_websocket": False}, None, False),
        ({"enable_websocket": True}, {}, True),
        ({}, {"enable_websocket": True}, True),
        ({"enable_websocket": False}, {"enable_websocket": True}, False),
        ({"enable_websocket": True}, {"enable_websocket": False}, True),
    ],
)
def test_who_may_upgrade(
    site: Sites, route: dict[str, object], service: dict[str, object] | None, enabled: bool
) -> None:
    with ScriptedUpstream(echo) as upstream:
        asked = site({upstream.node: 1}, route, service)
        with asked.connect() as sock:
            sock.sendall(asked.head(fields=UPGRADE))
            if enabled:
                assert received(sock, 12) == b"HTTP/1.1 101"
            else:
                assert read_response(sock) == (200, b"ok")


@pytest.mark.parametrize(
    "fields",
    [
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
        "Upgrade: websocket, h2c\r\nConnection: Upgrade\r\n",
    ],
)
def test_what_is_no_offer_to_switch(site: Sites, fields: str) -> None:
    heads: list[bytes] = []

    def script(talk: Talk) -> None:
        heads.append(talk.head().lower())
        talk.send(OK)

    with ScriptedUpstream(script) as upstream:
        assert site({upstream.node: 1}, ENABLED).ask(fields=fields) == (200, b"ok")
        assert b"upgrade" not in heads[0]
        assert b"http2" not in heads[0]


def test_bytes_behind_the_request_go_into_the_tunnel(site: Sites) -> None:
    early = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    with ScriptedUpstream(echo) as upstream:
        upgraded(site({upstream.node: 1}, ENABLED), early, expect=early).close()
        assert upstream.accepted == 1


def test_bytes_behind_a_request_that_was_not_upgraded_are_the_next_one(site: Sites) -> None:
    heads: list[bytes] = []

    def script(talk: Talk) -> None:
        while head := talk.head():
            heads.append(head)
            talk.send(OK)

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1}, ENABLED)
        with asked.connect() as sock:
            sock.sendall(asked.head(fields=UPGRADE) + asked.head(path="/next"))
            answers = b""
            while answers.count(b"\r\n\r\nok") < 2:
                answers += sock.recv(65536)
        assert [head.split(b" ")[1] for head in heads] == [b"/", b"/next"]
        assert upstream.accepted == 2  # what was offered an upgrade carries nothing else


def test_bytes_behind_the_101_go_to_the_client(site: Sites) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.send(SWITCHING + b"hello")

    with ScriptedUpstream(script) as upstream, upgraded(site({upstream.node: 1}, ENABLED), expect=b"hello") as sock:
        assert rest(sock) == b""


def test_a_request_with_a_body_may_upgrade_too(site: Sites) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        assert talk.exactly(2) == b"{}"
        talk.send(SWITCHING)
        while data := talk.some():
            talk.send(data)

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1}, ENABLED)
        with asked.connect() as sock:
            sock.sendall(asked.head("POST", fields=UPGRADE + "Content-Length: 2\r\n") + b"{}early")
            expected = head_of_101() + b"early"
            assert received(sock, len(expected)) == expected


def test_a_101_before_the_body_or_without_protocol_is_refused(site: Sites) -> None:
    with ScriptedUpstream(refusing_to_close(SWITCHING)) as upstream:
        asked = site({upstream.node: 1}, ENABLED)
        assert asked.ask("POST", UPGRADE + "Content-Length: 9\r\n", b"half")[0] == 502
    with ScriptedUpstream(refusing_to_close(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")) as upstream:
        assert site({upstream.node: 1}, ENABLED).ask(fields=UPGRADE)[0] == 502
        wait_until(lambda: upstream.connections() == 0, "no connection is left")


def test_half_closed_sides_still_hear_the_other(site: Sites) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.send(SWITCHING)
        assert talk.until(b"!") == b"all said!"
        assert not talk.some()  # the client's end has come through
        talk.send(b"good bye")

    with ScriptedUpstream(script) as upstream:
        with upgraded(site({upstream.node: 1}, ENABLED)) as sock:
            sock.sendall(b"all said!")
            sock.shutdown(socket.SHUT_WR)
            assert rest(sock) == b"good bye"
        wait_until(lambda: upstream.connections() == 0, "no connection is left")

    def talks_first(talk: Talk) -> None:
        talk.head()
        talk.send(SWITCHING)
        talk.half_close()
        assert talk.until(b"!") == b"heard!"
        talk.send(b"")

    with ScriptedUpstream(talks_first) as upstream:
        with upgraded(site({upstream.node: 1}, ENABLED)) as sock:
            assert sock.recv(1) == b""
            sock.sendall(b"heard!")
        wait_until(lambda: upstream.connections() == 0, "no connection is left")


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_a_reset_ends_both_sides(site: Sites, who: str) -> None:
    switched = threading.Event()

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(SWITCHING)
        switched.wait(20)
        if who == "upstream":
            talk.reset()
        else:
            talk.wait_closed()

    with ScriptedUpstream(script) as upstream:
        with upgraded(site({upstream.node: 1}, ENABLED)) as sock:
            switched.set()
            if who == "client":
                reset(sock)
            else:
                assert rest(sock) == b""
        wait_until(lambda: upstream.connections() == 0, "no connection is left")


def test_silence_ends_the_tunnel(site: Sites, gateway: Gateway) -> None:
    def script(talk: Talk) -> None:
        echo(talk)
        talk.wait_closed()

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1}, ENABLED, timeout={"connect": 1, "send": 1, "read": 0.6})
        with upgraded(asked) as sock:
            for _ in range(4):
                time.sleep(0.3)
                sock.sendall(b"x")  # what either side says counts
                assert sock.recv(1) == b"x"
            began = time.monotonic()
            assert sock.recv(1) == b""
            assert time.monotonic() - began > 0.3
        wait_until(lambda: upstream.connections() == 0, "no connection is left")


def test_the_access_log_tells_of_the_tunnel_at_its_end(site: Sites, gateway: Gateway) -> None:
    def entries(host: str) -> list[dict[str, object]]:
        lines = (gateway.directory / "run" / "access.log").read_text().splitlines()
        return [entry for line in lines if (entry := json.loads(line))["host"] == host]

    with ScriptedUpstream(echo) as upstream:
        asked = site({upstream.node: 1}, ENABLED)
        with upgraded(asked) as sock:
            sock.sendall(b"hello")
            assert received(sock, 5) == b"hello"
            assert not entries(asked.host)
        wait_until(lambda: entries(asked.host), "the line")
        (entry,) = entries(asked.host)
        assert (entry["status"], entry["body_bytes_sent"]) == (101, 5)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("slow", ["upstream", "client"])
def test_a_slow_side_holds_back_the_other(site: Sites, gateway: Gateway, slow: str, scheme: str) -> None:
    (pid,) = gateway.workers()
    size = 48 * MIB
    may_read = threading.Event()
    counts: list[int] = []

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(SWITCHING)
        if slow == "upstream":
            may_read.wait(20)
            counts.append(sum(len(talk.exactly(MIB)) for _ in range(size // MIB)))
        else:
            for _ in range(size // MIB):
                talk.send(b"x" * MIB)

    with ScriptedUpstream(script, tls=Certificates().server() if scheme == "https" else None) as upstream:
        asked = site({upstream.node: 1}, ENABLED, scheme=scheme)
        before = resident(pid)
        with upgraded(asked) as sock:
            if slow == "upstream":
                sender = threading.Thread(target=sock.sendall, args=(b"x" * size,))
                sender.start()
            until = time.monotonic() + 1
            while time.monotonic() < until:
                assert resident(pid) - before < 8 * MIB
                time.sleep(0.05)
            may_read.set()
            if slow == "upstream":
                sender.join()
                assert rest(sock) == b""
                assert counts == [size]
            else:
                assert len(rest(sock)) == size
        wait_until(lambda: upstream.connections() == 0, "no connection is left")


def test_tunnels_outlive_a_reload_until_the_time_is_up(tmp_path: Path, store: Etcd) -> None:
    with ScriptedUpstream(echo) as upstream:
        route = {"uri": "/*", "host": "drain.test", "upstream": {"nodes": {upstream.node: 1}}}
        store.put("routes/drain", {**route, "enable_websocket": True})
        gateway = Gateway(tmp_path, store.url, worker_processes=1, worker_shutdown_timeout=3)
        gateway.start()
        try:
            old = gateway.workers()
            with upgraded(Site(gateway, "drain.test")) as sock:
                gateway.signal(signal.SIGHUP)
                wait_until(lambda: gateway.workers() - old, "a new worker")
                assert sent(sock)
                assert rest(sock) == close_frame(SERVICE_RESTART)
            wait_until(lambda: not gateway.workers() & old, "the old worker has ended")
            assert "101" in (tmp_path / "run" / "access.log").read_text()
            assert "1 WebSockets are closed, since the worker ends" in gateway.log()
        finally:
            gateway.kill()


def sent(sock: socket.socket) -> bool:
    frame = b"\x82\x8a\0\0\0\0still here"
    sock.sendall(frame)
    return received(sock, len(frame)) == frame


def test_a_client_that_has_said_all_before_the_101(site: Sites) -> None:
    closing, ended = threading.Event(), threading.Event()

    def script(talk: Talk) -> None:
        talk.head()
        assert closing.wait(20)
        talk.send(SWITCHING)
        assert not talk.some()
        ended.set()
        talk.send(b"good bye")

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1}, ENABLED)
        with asked.connect() as sock:
            sock.sendall(asked.head(fields=UPGRADE))
            sock.shutdown(socket.SHUT_WR)
            closing.set()
            assert ended.wait(5)
            assert rest(sock) == head_of_101() + b"good bye"
        wait_until(lambda: upstream.connections() == 0, "no connection is left")


def test_both_ways_over_tls(site: Sites) -> None:
    heads: list[bytes] = []

    def script(talk: Talk) -> None:
        heads.append(talk.head())
        talk.send(SWITCHING + b"early")
        while data := talk.some():
            talk.send(data)

    with ScriptedUpstream(script, tls=Certificates().server()) as upstream:
        with upgraded(site({upstream.node: 1}, ENABLED, scheme="https"), b"ahead", b"earlyahead") as sock:
            assert b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" in heads[0]
            text = b"\x00\xff" * 50_000
            for _ in range(5):
                sock.sendall(text)
                assert received(sock, len(text)) == text
        wait_until(lambda: upstream.connections() == 0, "no connection is left")


@pytest.mark.parametrize("size", [8, 5 * MIB])
def test_a_tls_upstream_ends_the_tunnel_and_all_it_said_arrives(site: Sites, size: int) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.send(SWITCHING)
        talk.send(b"x" * size)

    with ScriptedUpstream(script, tls=Certificates().server()) as upstream:
        with upgraded(site({upstream.node: 1}, ENABLED, scheme="https")) as sock:
            assert len(rest(sock)) == size
        wait_until(lambda: upstream.connections() == 0, "no connection is left")


def test_a_tls_upstream_goes_on_with_its_answer_when_the_client_has_said_all(site: Sites) -> None:
    closing, closed = threading.Event(), threading.Event()

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(SWITCHING)
        assert talk.until(b"!") == b"all said!"
        assert closing.wait(20)
        for _ in range(8):
            talk.send(b"answer")
            time.sleep(0.1)
        talk.wait_closed()
        closed.set()

    with ScriptedUpstream(script, tls=Certificates().server()) as upstream:
        with upgraded(site({upstream.node: 1}, ENABLED, scheme="https")) as sock:
            sock.sendall(b"all said!")
            sock.shutdown(socket.SHUT_WR)
            closing.set()
            assert rest(sock) == b"answer" * 8
        assert closed.wait(20)
