"""``vars`` of routes, through a real etcd and real workers."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import Etcd, Gateway, read_response, wait_until
from tests.fakes.upstream import Upstream


@pytest.fixture
def gateway(tmp_path: Path, etcd: Etcd) -> Iterator[Gateway]:
    running = Gateway(tmp_path, etcd.url, worker_processes=1)
    running.start()
    yield running
    running.kill()


def put(etcd: Etcd, upstream: Upstream, id_: str, vars_: list[Any], priority: int = 1) -> None:
    """Write a route that leads ``/status/2xx`` to the upstream when its vars hold."""
    nodes = {"nodes": {f"127.0.0.1:{upstream.port}": 1}}
    etcd.put(f"routes/{id_}", {"uri": "/v/*", "vars": vars_, "priority": priority, "upstream": nodes})


def ask(gateway: Gateway, target: str, *lines: str) -> int:
    head = "\r\n".join([f"GET {target} HTTP/1.1", "Host: a.com", "Connection: close", *lines, "", ""])
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
        sock.sendall(head.encode())
        return read_response(sock)[0]


@pytest.mark.parametrize(
    ("vars_", "hit", "miss"),
    [
        ([["arg_a", "==", "1"]], ("/v/?a=1", []), ("/v/?a=2", [])),
        ([["arg_id", ">", 5]], ("/v/?id=7", []), ("/v/?id=abc", [])),
        ([["http_x_y", "~~", "^(a|b)$"]], ("/v/", ["X-Y: b"]), ("/v/", ["X-Y: c"])),
        ([["cookie_c", "in", ["1", "2"]]], ("/v/", ["Cookie: b=1; c=2"]), ("/v/", ["Cookie: b=1; c=3"])),
        ([["remote_addr", "ipmatch", ["10.0.0.0/8"]]], ("/v/", ["X-Real-IP: 10.1.1.1"]), ("/v/", [])),
        ([["graphql_root_fields", "has", "b"]], ("/v/?query=%7Ba%20b%7D", []), ("/v/?query=%7Ba%7D", [])),
        ([["OR", ["arg_a", "==", "1"], ["arg_b", "!", "==", None]]], ("/v/?b=", []), ("/v/?a", [])),
    ],
)
def test_routes_are_chosen_by_vars(
    gateway: Gateway, etcd: Etcd, upstream: Upstream, vars_: list[Any], hit: Any, miss: Any
) -> None:
    put(etcd, upstream, "v", vars_)
    wait_until(lambda: ask(gateway, hit[0], *hit[1]) == 200, "the route is live")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
        for (target, lines), expected in [(hit, 200), (hit, 200), (miss, 404), (miss, 404), (hit, 200)]:
            sock.sendall("\r\n".join([f"GET {target} HTTP/1.1", "Host: a.com", *lines, "", ""]).encode())
            assert read_response(sock)[0] == expected


def test_an_expression_that_does_not_compile_leaves_the_last_good_route(
    gateway: Gateway, etcd: Etcd, upstream: Upstream
) -> None:
    put(etcd, upstream, "v", [["arg_a", "==", "1"]])
    wait_until(lambda: ask(gateway, "/v/?a=1") == 200, "the route is live")
    put(etcd, upstream, "v", [["arg_a", "~~", "("]])
    wait_until(lambda: "$.vars[0][2]" in gateway.log(), "the error is logged with its path")
    assert ask(gateway, "/v/?a=1") == 200
