"""HTTP/1 through a real worker: what clients and upstreams see of each other."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.malformed import CHUNKED_BODIES, HEADS
from tests.fakes.processes import Etcd, Gateway, free_port, read_response, request, wait_until
from tests.fakes.upstream import Upstream
from worker.http.framing import ChunkedDecoder

MIB = 1 << 20


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Etcd, Upstream]]:
    """One gateway with one worker for the whole module."""
    directory = tmp_path_factory.mktemp("http")
    with Etcd(directory) as etcd, Upstream() as upstream:
        etcd.put("routes/1", {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}})
        gateway = Gateway(
            directory,
            etcd.url,
            worker_processes=1,
            client_max_body_size="3g",
            client_header_timeout=1,
            client_body_timeout=1,
        )
        gateway.start()
        yield gateway, etcd, upstream
        gateway.kill()


@pytest.fixture
def gateway(shared: tuple[Gateway, Etcd, Upstream]) -> Gateway:
    return shared[0]


@pytest.fixture
def etcd(shared: tuple[Gateway, Etcd, Upstream]) -> Etcd:
    return shared[1]


@pytest.fixture
def upstream(shared: tuple[Gateway, Etcd, Upstream]) -> Upstream:
    return shared[2]


@pytest.fixture
def client(gateway: Gateway) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
        yield sock


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """Send bytes and read until the gateway closes."""
    sock.sendall(data)
    answer = b""
    while piece := sock.recv(65536):
        answer += piece
    return answer


def dechunked(answer: bytes) -> tuple[bytes, bytes]:
    """Take a chunked answer apart: how chunks are cut is nobody's business."""
    decoder = ChunkedDecoder()
    body, rest = decoder.feed(answer.partition(b"\r\n\r\n")[2])
    assert decoder.finished
    return body, decoder.trailers + rest


def echoed(sock: socket.socket, data: bytes) -> dict[str, str]:
    sock.sendall(data)
    status, body = read_response(sock)
    assert status == 200
    decoded: dict[str, str] = json.loads(body)
    return decoded


def test_what_is_sent_upstream(gateway: Gateway, client: socket.socket) -> None:
    seen = echoed(
        client,
        b"GET /echo/%7Eraw//x?q=%20 HTTP/1.1\r\nHost: Shop.example:8080\r\n"
        b"Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\n"
        b"X-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Real-IP: 8.8.8.8\r\nTE: trailers\r\nX-A: 1\r\n"
        b"X-A: 2\r\nX_under: 3\r\n\r\n",
    )
    assert seen["head"].split("\r\n") == [
        "GET /echo/%7Eraw//x?q=%20 HTTP/1.1",
        "Host: Shop.example:8080",
        "X-A: 1",
        "X-A: 2",
        "X_under: 3",
        "X-Real-IP: 8.8.8.8",  # our own address is in real_ip_from
        "X-Forwarded-For: 9.9.9.9, 8.8.8.8",
        "X-Forwarded-Proto: http",
        "X-Forwarded-Host: Shop.example:8080",
        "X-Forwarded-Port: 8080",
        "",
        "",
    ]


def test_bodies_go_upstream_whole(client: socket.socket) -> None:
    length = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    chunked = (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    )
    assert echoed(client, length)["body"] == "hello"
    assert echoed(client, chunked)["body"] == "hello world"
    for at in range(0, len(chunked), 7):
        client.sendall(chunked[at : at + 7])
    assert json.loads(read_response(client)[1])["body"] == "hello world"


def test_pipelined_requests_are_answered_in_order(client: socket.socket) -> None:
    head = b"Host: a\r\n"
    answer = exchange(
        client,
        b"GET /echo/1 HTTP/1.1\r\n%b\r\nPOST /echo/2 HTTP/1.1\r\n%bContent-Length: 2\r\n\r\nab"
        b"GET /chunked HTTP/1.1\r\n%b\r\n"
        b"GET /echo/1 HTTP/1.1\r\n%b\r\nGET /echo/4 HTTP/1.1\r\n%bConnection: close\r\n\r\n" % ((head,) * 5),
    )
    places = [answer.index(mark) for mark in (b"GET /echo/1", b"POST /echo/2", b"hello", b"GET /echo/4")]
    assert places == sorted(places)
    assert answer.count(b"HTTP/1.1 200 OK") == 5
    assert answer.count(b"GET /echo/1 ") == 2


def test_framing_for_each_version(gateway: Gateway) -> None:
    def ask(data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
            return exchange(sock, data)

    close = b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert dechunked(ask(b"GET /chunked" + close)) == (b"hello world", b"X-Sum: 11\r\n")
    assert dechunked(ask(b"GET /close" + close)) == (b"until the end", b"")
    assert ask(b"GET /chunked HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nhello world")
    assert ask(b"GET /close HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").endswith(b"\r\n\r\nuntil the end")
    assert ask(b"HEAD /x" + close).endswith(b"Content-Length: 8\r\nConnection: close\r\n\r\n")


def test_keep_alive_of_http_10(client: socket.socket) -> None:
    client.sendall(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"\r\nConnection: keep-alive\r\n" in client.recv(65536)
    assert request(client, "/x")[0] == 200


def test_expect_continue(client: socket.socket) -> None:
    client.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"hello")
    body = json.loads(read_response(client)[1])
    assert body["body"] == "hello"
    assert "Expect" not in body["head"]


def test_absolute_form_replaces_host(client: socket.socket) -> None:
    seen = echoed(client, b"GET http://other.example:81/echo HTTP/1.1\r\nHost: a\r\n\r\n")
    assert seen["head"].startswith("GET /echo HTTP/1.1\r\nHost: other.example:81\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 40_000, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000000\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: magic\r\n\r\n", 417),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /x", 408),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf", 408),
    ],
)  # fmt: skip
def test_limits(client: socket.socket, data: bytes, status: int) -> None:
    answer = exchange(client, data)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nConnection: close\r\n" in answer


def test_malformed_requests_are_refused_and_never_forwarded(gateway: Gateway, upstream: Upstream) -> None:
    assert len(HEADS) + len(CHUNKED_BODIES) >= 100
    for data in HEADS + CHUNKED_BODIES:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
            answer = exchange(sock, data)
        assert not answer or answer[9:12] in (b"400", b"405", b"501", b"505"), data
        assert answer.count(b"HTTP/1.1 ") <= 1, data
    forwarded = [head for head in upstream.requests if b"mal" in head.split(b"\r\n")[0]]
    # A sound head may have gone ahead of a broken body; it then says chunked and never gets its last chunk.
    assert all(b"\r\nTransfer-Encoding: chunked\r\n" in head for head in forwarded)
    assert gateway.get("/after")[0] == 200


def resident(pid: int) -> int:
    words = Path(f"/proc/{pid}/statm").read_text().split()
    return int(words[1]) * 4096


def test_two_gib_through_a_worker_leave_its_memory_small(gateway: Gateway, upstream: Upstream) -> None:
    size = 2048 * MIB
    (pid,) = gateway.workers()
    before, peak = resident(pid), 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, resident(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
            sock.sendall(f"GET /bytes/{size} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert drain(sock, size) == size
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as sock:
            counted = upstream.body_bytes
            sock.sendall(f"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
            piece = b"y" * MIB
            for _ in range(size // MIB):
                sock.sendall(piece)
            assert read_response(sock)[0] == 200
            assert upstream.body_bytes - counted == size
    finally:
        done.set()
        watcher.join()
    assert peak - before < 8 * MIB


def drain(sock: socket.socket, size: int) -> int:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    count = len(data) - data.index(b"\r\n\r\n") - 4
    buffer = bytearray(MIB)
    while count < size:
        got = sock.recv_into(buffer)
        if not got:
            break
        count += got
    return count


def test_a_slow_client_holds_back_the_upstream(gateway: Gateway) -> None:
    (pid,) = gateway.workers()
    before = resident(pid)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
        sock.sendall(b"GET /bytes/200000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sock.recv(10) == b"HTTP/1.1 2"
        until = time.monotonic() + 1
        while time.monotonic() < until:
            assert resident(pid) - before < 8 * MIB
        assert drain(sock, 200_000_000) == 200_000_000


def put_upstream(etcd: Etcd, gateway: Gateway, host: str, upstream: dict[str, object]) -> Callable[[str], int]:
    """Put a route for a host and wait until it is served; returns how to ask it for a status."""
    etcd.put(f"routes/{host}", {"uri": "/*", "host": host, "upstream": upstream})
    marker = {"uri": "/*", "host": f"marker.{host}", "upstream": {"nodes": []}}
    etcd.put(f"routes/marker-{host}", marker)
    wait_until(lambda: gateway.get("/", f"marker.{host}")[0] == 503, "the marker that was written after it")
    return lambda path: gateway.get(path, host)[0]


def test_errors_of_upstreams(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    live, dead = f"127.0.0.1:{upstream.port}", f"127.0.0.1:{free_port()}"
    timeout = {"connect": 0.3, "send": 0.3, "read": 0.3}
    ask = put_upstream(etcd, gateway, "dead.com", {"nodes": {dead: 1}})
    assert ask("/") == 502
    ask = put_upstream(etcd, gateway, "half.com", {"nodes": {dead: 1, live: 1}})
    assert {ask("/") for _ in range(6)} == {200}
    ask = put_upstream(etcd, gateway, "once.com", {"nodes": {dead: 1, live: 1}, "retries": 0})
    assert {ask("/") for _ in range(6)} == {200, 502}
    ask = put_upstream(etcd, gateway, "slow.com", {"nodes": {live: 1}, "timeout": timeout})
    assert ask("/slow?s=5") == 504
    ask = put_upstream(etcd, gateway, "drop.com", {"nodes": {live: 1}})
    assert ask("/drop") == 502
    assert ask("/status/503") == 503


def test_x_apisix_upstream_status(gateway: Gateway, client: socket.socket) -> None:
    client.sendall(b"GET /status/500 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"\r\nX-APISIX-Upstream-Status: 500\r\n" in client.recv(65536)


def test_weights_are_honoured(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    with Upstream("other") as other:
        nodes = {f"127.0.0.1:{upstream.port}": 3, f"127.0.0.1:{other.port}": 1}
        put_upstream(etcd, gateway, "weights.com", {"nodes": nodes})
        names = [gateway.get("/", "weights.com")[1] for _ in range(8)]
        assert names.count(b"other") == 2
        etcd.delete("routes/weights.com")
        wait_until(lambda: gateway.get("/", "weights.com")[1] == b"upstream", "the fallback route")


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({"pass_host": "node"}, "127.0.0.1:{port}"),
        ({"pass_host": "rewrite", "upstream_host": "r.com"}, "r.com"),
        ({}, "h.com"),
    ],
)  # fmt: skip
def test_pass_host(gateway: Gateway, etcd: Etcd, upstream: Upstream, settings: dict[str, object], host: str) -> None:
    nodes = {f"127.0.0.1:{upstream.port}": 1}
    put_upstream(etcd, gateway, "h.com", {"nodes": nodes, **settings})
    head = json.loads(gateway.get("/echo", "h.com")[1])["head"]
    assert f"\r\nHost: {host.format(port=upstream.port)}\r\n" in head


def test_a_connection_that_died_idle_is_not_noticed_by_clients(gateway: Gateway, etcd: Etcd) -> None:
    with Upstream("first") as first:
        port = first.port
        put_upstream(etcd, gateway, "idle.com", {"nodes": {f"127.0.0.1:{port}": 1}})
        assert gateway.get("/", "idle.com") == (200, b"first")
    assert gateway.get("/", "idle.com")[0] == 502
