"""Who the client is, through a real worker: real_ip_header and trusted_addresses."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import Etcd, Gateway, read_response
from tests.fakes.upstream import Upstream


@pytest.fixture
def gateway(tmp_path: Path, etcd: Etcd, upstream: Upstream, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    nodes = {"nodes": {f"127.0.0.1:{upstream.port}": 1}}
    etcd.put("routes/near", {"uri": "/*", "priority": 1, "remote_addr": "192.0.2.0/24", "upstream": nodes})
    running = Gateway(tmp_path, etcd.url, worker_processes=1, **request.param)
    running.start()
    yield running
    running.kill()


def told(client: socket.socket, *lines: str) -> tuple[int, list[str]]:
    """Ask over a connection; returns the status, and what the upstream was told of the client."""
    head = "\r\n".join(["GET /echo/ HTTP/1.1", "Host: a.com", *lines, "", ""])
    client.sendall(head.encode())
    status, body = read_response(client)
    if status != 200:
        return status, []
    seen = json.loads(body)["head"].split("\r\n")
    return status, [line for line in seen if line.startswith(("X-Real", "X-Forwarded", "Forwarded"))]


OURS = ["X-Forwarded-Proto: http", "X-Forwarded-Host: a.com"]


@pytest.mark.parametrize("gateway", [{}], indirect=True)
def test_the_client_is_who_a_believed_peer_names(gateway: Gateway) -> None:
    port = f"X-Forwarded-Port: {gateway.port}"
    near = ["X-Real-IP: 192.0.2.1", "X-Forwarded-For: 192.0.2.1", *OURS, port]
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        for _ in range(2):  # a head that repeats itself is not read again
            assert told(client, "X-Real-IP: 192.0.2.1") == (200, near)
            assert told(client, "X-Real-IP: 192.0.2.1") == (200, near)
            assert told(client)[0] == 404
            assert told(client, "X-Real-IP: 198.51.100.1")[0] == 404


@pytest.mark.parametrize("gateway", [{"real_ip_from": ["192.0.2.0/24"]}], indirect=True)
def test_nobody_else_is_believed(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        assert told(client, "X-Real-IP: 192.0.2.1")[0] == 404


SENT = ("X-Real-IP: 192.0.2.1", "X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "Forwarded: for=192.0.2.9")


@pytest.mark.parametrize("gateway", [{"trusted_addresses": ["127.0.0.0/8"]}], indirect=True)
def test_a_trusted_peer_keeps_its_fields(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        assert told(client, *SENT)[1] == [
            *("X-Real-IP: 192.0.2.1", "X-Forwarded-For: 192.0.2.9, 192.0.2.1", "X-Forwarded-Proto: https"),
            *("X-Forwarded-Host: a.com", f"X-Forwarded-Port: {gateway.port}", "Forwarded: for=192.0.2.9"),
        ]


@pytest.mark.parametrize("gateway", [{"trusted_addresses": ["192.0.2.0/24"]}], indirect=True)
def test_the_chain_of_an_untrusted_peer_is_dropped(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        port = f"X-Forwarded-Port: {gateway.port}"
        assert told(client, *SENT)[1] == ["X-Real-IP: 192.0.2.1", "X-Forwarded-For: 192.0.2.1", *OURS, port]
