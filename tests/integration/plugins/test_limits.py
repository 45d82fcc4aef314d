"""Limits and circuits that all workers share, under load, over reloads and crashes."""

import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.processes import Etcd, Gateway, etcd_and_gateway, read_response, request, wait_until
from tests.fakes.upstream import Upstream
from tests.integration.plugins.barrage import Barrage


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Etcd, Gateway]]:
    """One gateway with four workers for the whole module."""
    with etcd_and_gateway(tmp_path_factory.mktemp("limits"), worker_processes=4) as running:
        yield running


@pytest.fixture
def etcd(shared: tuple[Etcd, Gateway]) -> Etcd:
    return shared[0]


@pytest.fixture
def gateway(shared: tuple[Etcd, Gateway]) -> Gateway:
    return shared[1]


def configure(etcd: Etcd, gateway: Gateway, upstream: Upstream, name: str, **plugins: dict[str, Any]) -> str:
    """Write a route with plugins and return its host."""
    nodes = {f"127.0.0.1:{upstream.port}": 1}
    route = {
        "uri": "/*",
        "host": f"{name}.com",
        "upstream": {"type": "roundrobin", "nodes": nodes},
        "plugins": {plugin.replace("_", "-"): config for plugin, config in plugins.items()},
    }
    gateway.applied(etcd.put(f"routes/{name}", route))
    return f"{name}.com"


def test_of_a_thousand_exactly_a_thousand_pass_under_full_load(
    etcd: Etcd, gateway: Gateway, upstream: Upstream
) -> None:
    host = configure(etcd, gateway, upstream, "full", limit_count={"count": 1_000, "time_window": 600})
    statuses = Barrage(gateway, host, most=8_000).run()
    assert statuses == {200: 1_000, 503: 7_000}
    assert len(upstream.requests) == 1_000


def test_a_window_that_slides_lets_exactly_as_many_through(etcd: Etcd, gateway: Gateway, upstream: Upstream) -> None:
    config = {"count": 1_000, "time_window": 100_000_000, "window_type": "sliding"}
    host = configure(etcd, gateway, upstream, "sliding", limit_count=config)
    statuses = Barrage(gateway, host, most=8_000).run()
    assert statuses == {200: 1_000, 503: 7_000}
    assert len(upstream.requests) == 1_000


def test_a_reload_in_the_middle_changes_nothing(etcd: Etcd, gateway: Gateway, upstream: Upstream) -> None:
    host = configure(etcd, gateway, upstream, "reload", limit_count={"count": 1_000, "time_window": 600})
    assert Barrage(gateway, host, most=500).run() == {200: 500}
    before = gateway.workers()
    with Barrage(gateway, host, clients=4) as barrage:
        gateway.signal(signal.SIGHUP)
        wait_until(lambda: not gateway.workers() & before, "the old generation has ended")
        wait_until(lambda: barrage.statuses[503] > 2_000, "many are refused")
    assert barrage.statuses[200] == 500
    assert len(upstream.requests) == 1_000


def test_a_bucket_leaks_for_all_workers_together(etcd: Etcd, gateway: Gateway, upstream: Upstream) -> None:
    config = {"rate": 0.001, "burst": 500, "key": "remote_addr", "nodelay": True}
    host = configure(etcd, gateway, upstream, "bucket", limit_req=config)
    statuses = Barrage(gateway, host, most=3_000).run()
    assert statuses == {200: 501, 503: 2_499}


def conn(limit: int) -> dict[str, Any]:
    return {"conn": limit, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"}


def occupy(sock: socket.socket, host: str, upstream: Upstream) -> None:
    """Have one more request under way; what has just been answered may still take its place for a moment."""
    busy = upstream.busy

    def is_refused_or_under_way() -> bool:
        return upstream.busy > busy or bool(select.select([sock], [], [], 0)[0])

    while upstream.busy == busy:
        sock.sendall(f"GET /slow?s=600 HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        wait_until(is_refused_or_under_way, "the gateway has decided")
        if upstream.busy == busy:
            assert read_response(sock)[0] == 503


def test_requests_under_way_are_counted_by_all_and_given_back(etcd: Etcd, gateway: Gateway, upstream: Upstream) -> None:
    host = configure(etcd, gateway, upstream, "conn", limit_conn=conn(2))
    one, two = sorted(gateway.workers())[:2]
    with gateway.connection_to(one) as first, gateway.connection_to(two) as second:
        occupy(first, host, upstream)
        occupy(second, host, upstream)
        assert {gateway.get("/x", host)[0] for _ in range(12)} == {503}
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.close()  # a client that goes away; one that only sends no more would still be answered
        wait_until(lambda: gateway.get("/x", host)[0] == 200, "its place is free")
        with gateway.connection_to(one) as third:
            occupy(third, host, upstream)
            wait_until(lambda: gateway.get("/x", host)[0] == 503, "all places are taken")
            os.kill(two, signal.SIGKILL)  # a worker that dies
            wait_until(lambda: two not in gateway.workers() and len(gateway.workers()) == 4, "another takes its place")
            wait_until(lambda: gateway.get("/x", host)[0] == 200, "its place is free")


@pytest.mark.parametrize("ending", ["drop", "close", "bytes/100000", "status/500"])
def test_whatever_ends_a_request_gives_back(etcd: Etcd, gateway: Gateway, upstream: Upstream, ending: str) -> None:
    host = configure(etcd, gateway, upstream, "ending", limit_conn=conn(1))
    for _ in range(5):
        # What has been answered is given back a moment later.
        wait_until(lambda: gateway.get(f"/{ending}", host)[0] != 503, "its place is free")


def test_a_circuit_is_open_for_all_workers(etcd: Etcd, gateway: Gateway, upstream: Upstream) -> None:
    config = {"break_response_code": 599, "unhealthy": {"http_statuses": [500], "failures": 3}, "max_breaker_sec": 300}
    host = configure(etcd, gateway, upstream, "circuit", api_breaker=config)
    socks = [gateway.connection_to(pid) for pid in sorted(gateway.workers())]
    try:
        assert [request(sock, "/status/500", host)[0] for sock in socks[:3]] == [500] * 3
        wait_until(lambda: request(socks[3], "/status/500", host)[0] == 599, "the circuit is open")
        assert {request(sock, "/status/500", host)[0] for sock in socks} == {599}
    finally:
        for sock in socks:
            sock.close()
