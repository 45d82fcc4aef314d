"""TLS towards upstreams: names, certificates, verification, and who shares connections."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.certificates import Certificates, asked_name, shown_name
from tests.fakes.processes import Etcd, Gateway, etcd_and_gateway, has_ipv6, read_response, request, wait_until
from tests.fakes.upstream import Upstream


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[tuple[Etcd, Gateway]]:
    """One gateway with one worker for the whole module, which trusts the authority of the tests."""
    directory = tmp_path_factory.mktemp("tls")
    trusted = {"ssl_trusted_certificate": str(certificates.write_authority(directory / "authority.pem"))}
    with etcd_and_gateway(directory, worker_processes=1, ssl=trusted) as running:
        yield running


@pytest.fixture
def etcd(shared: tuple[Etcd, Gateway]) -> Etcd:
    return shared[0]


@pytest.fixture
def gateway(shared: tuple[Etcd, Gateway]) -> Gateway:
    return shared[1]


@pytest.fixture
def upstream(certificates: Certificates) -> Iterator[Upstream]:
    with Upstream(tls=certificates.server()) as running:
        yield running


@pytest.fixture
def demanding(certificates: Certificates) -> Iterator[Upstream]:
    """An upstream that talks to nobody without a certificate."""
    with Upstream(tls=certificates.server(demands_certificate=True)) as running:
        yield running


def put(gateway: Gateway, etcd: Etcd, key: str, value: object) -> None:
    """Write a key and wait until it is live."""
    gateway.applied(etcd.put(key, value))


def tls_upstream(*ports: int, **more: Any) -> dict[str, Any]:
    return {"scheme": "https", "nodes": {f"127.0.0.1:{port}": 1 for port in ports}, **more}


def test_the_host_sent_is_asked_for(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": tls_upstream(upstream.port)})
    assert gateway.get("/", "a.com") == (200, b"upstream")
    assert gateway.get("/", "B.com:9080") == (200, b"upstream")
    assert gateway.get("/", "a.com") == (200, b"upstream")
    assert [asked_name(tls) for tls in upstream.handshakes] == ["a.com", "b.com"]
    assert upstream.handshakes[0].selected_alpn_protocol() == "http/1.1"


def test_a_rewritten_host_is_asked_for(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    rewriting = tls_upstream(upstream.port, pass_host="rewrite", upstream_host="b.com")
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": rewriting})
    status, body = gateway.get("/echo", "a.com")
    assert status == 200
    assert "\r\nHost: b.com\r\n" in json.loads(body)["head"]
    assert gateway.get("/", "c.com")[0] == 200
    assert [asked_name(tls) for tls in upstream.handshakes] == ["b.com"]


def test_an_address_is_not_asked_for(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": tls_upstream(upstream.port, pass_host="node")})
    status, body = gateway.get("/echo", "a.com")
    assert status == 200
    assert f"\r\nHost: 127.0.0.1:{upstream.port}\r\n" in json.loads(body)["head"]
    assert [asked_name(tls) for tls in upstream.handshakes] == [None]


def test_a_name_that_none_can_have_is_not_asked_for(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": tls_upstream(upstream.port)})
    assert gateway.get("/", "a..b")[0] == 200
    assert [asked_name(tls) for tls in upstream.handshakes] == [None]


def test_an_inline_certificate_is_shown(
    gateway: Gateway, etcd: Etcd, demanding: Upstream, certificates: Certificates
) -> None:
    cert, key = certificates.client("inline")
    with_certificate = tls_upstream(demanding.port, tls={"client_cert": cert, "client_key": key})
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": with_certificate})
    assert gateway.get("/", "a.com") == (200, b"upstream")
    assert shown_name(demanding.handshakes[-1]) == "inline"

    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": tls_upstream(demanding.port)})
    assert gateway.get("/", "a.com")[0] == 502


def test_different_certificates_never_share_a_connection(
    gateway: Gateway, etcd: Etcd, demanding: Upstream, certificates: Certificates
) -> None:
    for name in ("one", "two"):
        cert, key = certificates.client(name)
        with_certificate = tls_upstream(demanding.port, tls={"client_cert": cert, "client_key": key})
        put(gateway, etcd, f"routes/{name}", {"uri": f"/{name}", "upstream": with_certificate})
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        for _ in range(3):
            for path in ("/one", "/two"):
                assert request(client, path)[0] == 200
    assert sorted(shown_name(tls) for tls in demanding.handshakes) == ["one", "two"]


def test_certificate_by_id(gateway: Gateway, etcd: Etcd, demanding: Upstream, certificates: Certificates) -> None:
    def resource(name: str, **more: object) -> dict[str, object]:
        cert, key = certificates.client(name)
        return {"type": "client", "cert": cert, "key": key, **more}

    put(
        gateway,
        etcd,
        "routes/1",
        {"uri": "/*", "upstream": tls_upstream(demanding.port, tls={"client_cert_id": "mine"})},
    )
    assert gateway.get("/", "a.com")[0] == 502
    wait_until(lambda: "ssl mine does not exist" in gateway.log(), "logged")

    put(gateway, etcd, "ssls/mine", resource("first"))
    assert gateway.get("/", "a.com")[0] == 200
    assert shown_name(demanding.handshakes[-1]) == "first"

    put(gateway, etcd, "ssls/mine", resource("second"))
    assert gateway.get("/", "a.com")[0] == 200
    assert shown_name(demanding.handshakes[-1]) == "second"
    assert len(demanding.handshakes) == 2

    put(gateway, etcd, "ssls/mine", {**resource("third"), "key": certificates.client("other")[1]})
    assert gateway.get("/", "a.com")[0] == 503

    put(gateway, etcd, "ssls/mine", resource("fourth", status=0))
    assert gateway.get("/", "a.com")[0] == 502
    put(gateway, etcd, "ssls/mine", {**resource("fifth"), "type": "server", "sni": "a.com"})
    assert gateway.get("/", "a.com")[0] == 502
    put(gateway, etcd, "ssls/mine", resource("sixth"))
    assert gateway.get("/", "a.com")[0] == 200
    etcd.delete("ssls/mine")
    wait_until(lambda: gateway.get("/", "a.com")[0] == 502, "the certificate is gone")


def test_verification(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": tls_upstream(upstream.port, tls={"verify": True})})
    assert gateway.get("/", "a.com")[0] == 200
    assert gateway.get("/", "other.com")[0] == 502  # not in the certificate
    assert gateway.get("/", "a..b")[0] == 502  # cannot be in any
    assert gateway.get("/", "127.0.0.1")[0] == 200
    assert gateway.get("/", "127.0.0.2")[0] == 502
    with Upstream(tls=Certificates().server()) as stranger:
        put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": tls_upstream(stranger.port, tls={"verify": True})})
        assert gateway.get("/", "a.com")[0] == 502
        wait_until(lambda: "certificate verify failed" in gateway.log(), "logged")
        put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": tls_upstream(stranger.port)})
        assert gateway.get("/", "a.com")[0] == 200  # by default nobody is verified


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6")
def test_an_upstream_on_ipv6(gateway: Gateway, etcd: Etcd, certificates: Certificates) -> None:
    with Upstream("six", tls=certificates.server(), address="::1") as six:
        nodes = [{"host": "::1", "port": six.port, "weight": 1}]
        verified = {"scheme": "https", "nodes": nodes, "tls": {"verify": True}}
        put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": {**verified, "pass_host": "node"}})
        status, body = gateway.get("/echo", "a.com")
        assert (status, json.loads(body)["name"]) == (200, "six")
        assert f"\r\nHost: [::1]:{six.port}\r\n" in json.loads(body)["head"]
        put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": verified})
        assert gateway.get("/", "a.com") == (200, b"six")
        assert gateway.get("/", "[::1]") == (200, b"six")
        assert gateway.get("/", "[::2]")[0] == 502  # not in the certificate
        assert [asked_name(tls) for tls in six.handshakes[:2]] == [None, "a.com"]


def test_a_failed_handshake_is_tried_on_another_peer(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    with Upstream("stranger", tls=Certificates().server()) as stranger:
        verifying = tls_upstream(stranger.port, upstream.port, tls={"verify": True})
        put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": verifying})
        answers = {gateway.get("/", "a.com") for _ in range(4)}
    assert answers == {(200, b"upstream")}


def test_a_handshake_that_takes_too_long(gateway: Gateway, etcd: Etcd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(10)
        slow = tls_upstream(silent.getsockname()[1], timeout={"connect": 0.2, "send": 5, "read": 5})
        put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": slow})
        assert gateway.get("/", "a.com")[0] == 504
        connection, _ = silent.accept()
        with connection:
            connection.settimeout(10)
            while connection.recv(65536):  # until the gateway has closed it
                pass


def test_sessions_are_resumed(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    unkept = tls_upstream(upstream.port, keepalive_pool={"requests": 1})
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": unkept})
    for _ in range(3):
        assert gateway.get("/", "a.com")[0] == 200
    assert gateway.get("/", "b.com")[0] == 200
    assert [tls.session_reused for tls in upstream.handshakes] == [False, True, True, False]


def test_answers_of_every_framing(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": tls_upstream(upstream.port)})
    assert b"until the end" in gateway.get("/close")[1]
    assert b"hello" in gateway.get("/chunked")[1]
    assert gateway.get("/drop")[0] == 502
    assert gateway.get("/")[0] == 200


def test_a_peer_that_takes_no_bytes(gateway: Gateway, etcd: Etcd, certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        impatient = tls_upstream(server.getsockname()[1], timeout={"connect": 5, "send": 0.3, "read": 0.3})
        put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": impatient})
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: %d\r\n\r\n" % (64 << 20))
            accepted, _ = server.accept()
            with certificates.server().wrap_socket(accepted, server_side=True):
                sender = threading.Thread(target=send_until_it_fails, args=[client])
                sender.start()
                assert read_response(client)[0] == 504
                client.shutdown(socket.SHUT_RDWR)
                sender.join()


def send_until_it_fails(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.sendall(b"x" * (64 << 20))


def test_large_bodies_both_ways(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": tls_upstream(upstream.port)})
    size = 64 << 20
    before = resident(gateway)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: %d\r\n\r\n" % size)
        piece = b"x" * (1 << 20)
        for _ in range(size >> 20):
            client.sendall(piece)
        assert read_response(client) == (200, b"upstream")
        assert upstream.body_bytes == size
        client.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: a.com\r\n\r\n" % size)
        # Nothing is read: what the gateway holds meanwhile is bounded.
        first = client.recv(1 << 16)
        wait_until(lambda: is_settled(gateway), "the upstream is held up")
        assert resident(gateway) - before < 16 << 20
        left = size - len(first.partition(b"\r\n\r\n")[2])
        while left:
            left -= len(client.recv(1 << 20))


def resident(gateway: Gateway) -> int:
    """Return the memory of the only worker in bytes."""
    (pid,) = gateway.workers()
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def is_settled(gateway: Gateway) -> bool:
    """Tell whether the only worker has nothing to do."""
    (pid,) = gateway.workers()

    def used() -> int:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(words[11]) + int(words[12])

    before = used()
    for _ in range(20):
        gateway.control("/status")
    return used() - before < 20
