"""Nodes by name and discovery by DNS through a real gateway and a real DNS server."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.dns import DnsServer
from tests.fakes.processes import Etcd, Gateway, free_port, request, wait_until
from tests.fakes.upstream import Upstream

Put = Callable[[str, object], None]


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


@pytest.fixture
def gateway(tmp_path: Path, etcd: Etcd, dns: DnsServer) -> Iterator[Gateway]:
    """A gateway with one worker that asks the DNS server of the test."""
    running = Gateway(
        tmp_path,
        etcd.url,
        worker_processes=1,
        dns_resolver=[dns.address],
        resolver_timeout=1,
        enable_resolv_search_opt=False,
        discovery={"dns": {"servers": [dns.address]}},
    )
    running.start()
    yield running
    running.kill()


@pytest.fixture
def put(gateway: Gateway, etcd: Etcd) -> Put:
    def write(key: str, value: object) -> None:
        gateway.control(f"/v1/sync/wait?revision={etcd.put(key, value)}")

    return write


@pytest.fixture
def pair() -> Iterator[tuple[Upstream, Upstream]]:
    """Two upstreams on one port of two addresses."""
    with ExitStack() as stack:
        first = stack.enter_context(Upstream("first"))
        second = Upstream("second", address="127.0.0.2")
        second.port = first.port
        yield first, stack.enter_context(second)


def route(upstream: dict[str, Any]) -> dict[str, Any]:
    return {"uri": "/*", "upstream": upstream}


def discovered(service: str, **more: Any) -> dict[str, Any]:
    return route({"discovery_type": "dns", "service_name": service, **more})


def logged(gateway: Gateway, text: str) -> None:
    """Wait for the error log, which is written aside."""
    wait_until(lambda: text in gateway.log(), f"logged: {text}")


def names(gateway: Gateway, count: int = 8) -> set[bytes]:
    """Ask several times; return who has answered."""
    answers = {gateway.get("/") for _ in range(count)}
    assert {status for status, _ in answers} == {200}, answers
    return {body for _, body in answers}


def test_a_name_is_one_node_that_follows_its_answers(
    gateway: Gateway, put: Put, dns: DnsServer, pair: tuple[Upstream, Upstream]
) -> None:
    dns.put("node.test", "A", "127.0.0.1")
    put("routes/1", route({"nodes": {f"node.test:{pair[0].port}": 1}}))
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as client:
        assert request(client, "/") == (200, b"first")
        assert request(client, "/") == (200, b"first")
        assert dns.count("node.test A") == 1
        dns.put("node.test", "A", "127.0.0.2")
        # The connection kept alive to the old address is given up once it is no more in the answer.
        wait_until(lambda: request(client, "/") == (200, b"second"), "the new address is used")

        dns.mood = "fails"
        asked = len(dns.asked)
        wait_until(lambda: request(client, "/")[0] == 200 and len(dns.asked) > asked + 2, "refreshed in vain")
        assert request(client, "/") == (200, b"second")
        dns.mood = "is silent"
        assert request(client, "/") == (200, b"second")
    logged(gateway, "goes on with 127.0.0.2")


def test_an_answer_holds_for_its_ttl(
    gateway: Gateway, put: Put, dns: DnsServer, pair: tuple[Upstream, Upstream]
) -> None:
    dns.put("node.test", "A", "127.0.0.1", ttl=300)
    put("routes/1", route({"nodes": {f"NODE.test:{pair[0].port}": 1}, "keepalive_pool": {"requests": 1}}))
    for _ in range(20):
        assert gateway.get("/") == (200, b"first")
    assert dns.count("node.test A") == dns.count("node.test AAAA") == 1


def test_names_that_do_not_resolve(gateway: Gateway, put: Put, dns: DnsServer, pair: tuple[Upstream, Upstream]) -> None:
    port = pair[0].port
    put("routes/1", route({"nodes": {f"missing.test:{port}": 1}}))
    assert gateway.get("/")[0] == 503
    logged(gateway, "cannot resolve missing.test: missing.test does not exist")

    put("routes/1", route({"nodes": {f"missing.test:{port}": 1, f"127.0.0.1:{port}": 1}, "retries": 0}))
    assert names(gateway) == {b"first"}  # what has not been tried is no try

    dns.put("missing.test", "A", "127.0.0.1")
    put("routes/1", route({"nodes": {f"missing.test:{port}": 1}}))
    wait_until(lambda: gateway.get("/") == (200, b"first"), "it exists by now")


def test_a_node_that_was_tried_counts_for_more_than_one_without_address(
    gateway: Gateway, put: Put, dns: DnsServer
) -> None:
    refusing = {"host": "127.0.0.1", "port": free_port(), "weight": 1}
    unknown = {"host": "unknown.test", "port": 80, "weight": 1}
    for first, second in ((refusing, unknown), (unknown, refusing)):
        put("routes/1", route({"nodes": [{**first, "priority": 1}, second]}))
        assert gateway.get("/")[0] == 502


def test_silent_servers_cost_the_time_of_the_resolver(gateway: Gateway, put: Put, dns: DnsServer) -> None:
    dns.mood = "is silent"
    put("routes/1", route({"nodes": {"node.test:80": 1}}))
    assert gateway.get("/")[0] == 503
    logged(gateway, "no answer on node.test A")


def test_the_other_address_is_used_when_one_is_dead(
    gateway: Gateway, put: Put, dns: DnsServer, pair: tuple[Upstream, Upstream]
) -> None:
    dns.put("node.test", "A", "127.0.0.1", "127.0.0.9", ttl=300)
    put("routes/1", route({"nodes": {f"node.test:{pair[0].port}": 1}, "keepalive_pool": {"requests": 1}}))
    answers = [gateway.get("/")[0] for _ in range(10)]
    assert answers in ([200] * 10, [502] + [200] * 9)


def test_a_truncated_answer_is_asked_for_again_over_tcp(
    gateway: Gateway, put: Put, dns: DnsServer, pair: tuple[Upstream, Upstream]
) -> None:
    dns.mood = "truncates"
    dns.put("node.test", "A", "127.0.0.1", ttl=300)
    put("routes/1", route({"nodes": {f"node.test:{pair[0].port}": 1}}))
    assert gateway.get("/") == (200, b"first")
    assert "node.test A" in dns.asked_by_tcp
    assert dns.count("node.test A") == 2
    dns.put("service.test", "A", "127.0.0.1", "127.0.0.2")
    put("routes/1", discovered(f"service.test:{pair[0].port}"))
    assert names(gateway) == {b"first", b"second"}
    assert "service.test A" in dns.asked_by_tcp


def test_the_hosts_file_comes_first(
    gateway: Gateway, put: Put, dns: DnsServer, pair: tuple[Upstream, Upstream]
) -> None:
    dns.put("localhost", "A", "127.0.0.2")
    put("routes/1", route({"nodes": {f"localhost:{pair[0].port}": 1}}))
    assert gateway.get("/") == (200, b"first")
    assert dns.asked == []


def test_all_addresses_of_a_service_are_nodes(
    gateway: Gateway, put: Put, dns: DnsServer, pair: tuple[Upstream, Upstream]
) -> None:
    dns.put("service.test", "A", "127.0.0.1", "127.0.0.2")
    put("routes/1", discovered(f"service.test:{pair[0].port}"))
    assert names(gateway) == {b"first", b"second"}

    dns.put("service.test", "A", "127.0.0.2", "127.0.0.1")
    seen = len(dns.asked)
    wait_until(lambda: len(dns.asked) >= seen + 3, "asked again")
    assert gateway.log().count("has 2 nodes") == 0  # the same nodes in another order are no change

    dns.put("service.test", "A", "127.0.0.2")
    wait_until(lambda: names(gateway) == {b"second"}, "the other node is gone")
    dns.mood = "fails"
    logged(gateway, "its last nodes stay")
    assert names(gateway) == {b"second"}
    dns.mood = "knows nothing"
    wait_until(lambda: gateway.get("/")[0] == 503, "there is no node left")
    dns.mood = "answers"
    wait_until(lambda: gateway.get("/") == (200, b"second"), "it is back")


def test_a_change_of_nodes_keeps_the_connections_of_those_that_stay(
    gateway: Gateway, put: Put, dns: DnsServer, pair: tuple[Upstream, Upstream]
) -> None:
    dns.put("service.test", "A", "127.0.0.1")
    put("upstreams/1", {"discovery_type": "dns", "service_name": f"service.test:{pair[0].port}"})
    put("routes/1", {"uri": "/*", "upstream_id": "1"})
    accepted = connections_to("127.0.0.1", pair[0].port)
    assert names(gateway) == {b"first"}
    before = connections_to("127.0.0.1", pair[0].port) - accepted
    dns.put("service.test", "A", "127.0.0.1", "127.0.0.2")
    wait_until(lambda: names(gateway, 2) == {b"first", b"second"}, "the second node is there")
    assert connections_to("127.0.0.1", pair[0].port) - accepted == before


def connections_to(address: str, port: int) -> set[str]:
    """Return the local ports that are connected to an address."""
    there = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {words[1] for words in lines if words[2] == there and words[3] == "01"}


def test_service_records(gateway: Gateway, put: Put, dns: DnsServer, pair: tuple[Upstream, Upstream]) -> None:
    port = pair[0].port
    dns.put("_http.service.test", "SRV", f"10 1 {port} one.test.", f"20 1 {port} two.test.")
    dns.put("one.test", "A", "127.0.0.1")
    dns.put("two.test", "A", "127.0.0.2")
    put("routes/1", discovered("_http.service.test"))
    assert names(gateway) == {b"first"}  # a smaller priority is preferred
    dns.put("_http.service.test", "SRV", f"10 1 {port} one.test.", f"10 0 {port} two.test.")
    wait_until(lambda: names(gateway) == {b"first", b"second"}, "both are preferred")


def test_what_is_not_there_is_said(gateway: Gateway, put: Put) -> None:
    put("routes/1", route({"discovery_type": "consul", "service_name": "a"}))
    assert gateway.get("/")[0] == 503
    logged(gateway, "discovery_type consul is not enabled; discovery of the settings has: dns")
    put("routes/1", discovered("nobody.test:80"))
    assert gateway.get("/")[0] == 503
    logged(gateway, "dns service nobody.test:80 has no nodes")
    put("routes/1", discovered("bad.test:99999"))
    assert gateway.get("/")[0] == 503
    logged(gateway, "service_name bad.test:99999: is no domain")


def test_a_service_that_nobody_uses_is_asked_for_no_more(
    gateway: Gateway, put: Put, etcd: Etcd, dns: DnsServer, pair: tuple[Upstream, Upstream]
) -> None:
    dns.put("service.test", "A", "127.0.0.1")
    put("routes/1", discovered(f"service.test:{pair[0].port}"))
    assert gateway.get("/") == (200, b"first")
    put("routes/2", {"uri": "/late", "upstream": discovered("late.test:80")["upstream"]})
    etcd.delete("routes/2")
    wait_until(lambda: gateway.get("/late") == (200, b"first"), "the other route takes it")
    asked = dns.count("late.test A")
    wait_until(lambda: dns.count("service.test A") > 2, "the service is asked for")
    assert dns.count("late.test A") == asked  # and the one that nobody uses is not
