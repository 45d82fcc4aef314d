"""Health checks with real upstreams, real workers and a real etcd."""

import http.client
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.checked import CheckedUpstream, self_signed
from tests.fakes.dns import DnsServer
from tests.fakes.processes import Etcd, Gateway, free_port, request, wait_until

ONE_OF_EACH = {"interval": 1, "http_failures": 1, "tcp_failures": 1, "timeouts": 1}
ACTIVE = {"http_path": "/health", "healthy": {"interval": 1, "successes": 1}, "unhealthy": ONE_OF_EACH}
RARELY = {"http_path": "/health", "healthy": {"interval": 3600}, "unhealthy": {"interval": 3600}}


@pytest.fixture
def one() -> Iterator[CheckedUpstream]:
    with CheckedUpstream("one") as running:
        yield running


@pytest.fixture
def two() -> Iterator[CheckedUpstream]:
    with CheckedUpstream("two") as running:
        yield running


@pytest.fixture
def gateway(tmp_path: Path, etcd: Etcd) -> Iterator[Gateway]:
    running = Gateway(tmp_path, etcd.url)
    running.start()
    yield running
    running.kill()


def upstream_of(*upstreams: CheckedUpstream, checks: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {"nodes": {f"127.0.0.1:{node.port}": 1 for node in upstreams}, "checks": checks, **other}


def configure(etcd: Etcd, gateway: Gateway, upstream: dict[str, Any]) -> None:
    etcd.put("routes/1", {"uri": "/*", "upstream_id": "u"})
    apply(gateway, etcd.put("upstreams/u", upstream))


def apply(gateway: Gateway, revision: int) -> None:
    assert gateway.control(f"/v1/sync/wait?revision={revision}")[0] == 200


def node(gateway: Gateway, upstream: CheckedUpstream, of: str = "upstreams/u") -> dict[str, Any]:
    code, answer = gateway.control(f"/v1/healthcheck/{of}")
    assert code == 200, answer
    found: dict[str, Any] = next(node for node in answer["nodes"] if node["port"] == upstream.port)
    return found


def wait_for(gateway: Gateway, upstream: CheckedUpstream, status: str, of: str = "upstreams/u") -> None:
    wait_until(lambda: node(gateway, upstream, of)["status"] == status, f"{upstream.name} is {status}")


def names(gateway: Gateway) -> set[bytes]:
    """Ask every worker several times; returns the bodies."""
    found = set()
    for pid in gateway.workers():
        with gateway.connection_to(pid) as sock:
            found |= {request(sock, "/who")[1] for _ in range(6)}
    return found


def prober(gateway: Gateway) -> int:
    pids = re.findall(r"(\d+)#propylon\.health: this worker does the health checks", gateway.log())
    return int(pids[-1])


def test_a_node_that_fails_is_left_out_by_all_workers_until_it_recovers(
    etcd: Etcd, gateway: Gateway, one: CheckedUpstream, two: CheckedUpstream
) -> None:
    configure(etcd, gateway, upstream_of(one, two, checks={"active": ACTIVE}))
    assert names(gateway) == {b"one", b"two"}
    one.health = 500
    wait_for(gateway, one, "unhealthy")
    wait_until(lambda: names(gateway) == {b"two"}, "all workers leave one out")
    assert node(gateway, one)["counter"] == {"success": 0, "http_failure": 1, "tcp_failure": 0, "timeout_failure": 0}
    one.health = 302
    wait_for(gateway, one, "healthy")
    wait_until(lambda: names(gateway) == {b"one", b"two"}, "all workers use one again")
    assert re.search(rf"upstreams/u: 127.0.0.1:{one.port} is unhealthy, was healthy: http_failure", gateway.log())


def test_nodes_are_probed_without_traffic_and_by_one_worker_only(
    etcd: Etcd, gateway: Gateway, one: CheckedUpstream
) -> None:
    configure(
        etcd, gateway, upstream_of(one, checks={"active": {**ACTIVE, "req_headers": ["X-A: b"], "host": "h.example"}})
    )
    wait_until(lambda: len(one.probes) >= 3, "probes")
    assert one.connections == len(one.probes)
    assert one.probes[0] == b"GET /health HTTP/1.1\r\nHost: h.example\r\nX-A: b\r\nConnection: close\r\n\r\n"
    assert len(re.findall("does the health checks", gateway.log())) == 1
    etcd.delete("upstreams/u")
    wait_until(lambda: gateway.control("/v1/healthcheck")[1] == {}, "nothing is checked")
    seen = len(one.probes)
    assert gateway.control("/v1/healthcheck/upstreams/u") == (404, {"error_msg": "upstreams[u] not found"})
    with CheckedUpstream("other") as other:
        configure(etcd, gateway, upstream_of(other, checks={"active": ACTIVE}))
        wait_until(lambda: len(other.probes) >= 2, "probes of another")
    assert len(one.probes) <= seen + 1  # one may have been under way


def test_a_method_and_a_body_are_sent_as_configured(etcd: Etcd, gateway: Gateway, one: CheckedUpstream) -> None:
    active = {**ACTIVE, "http_method": "POST", "http_req_body": '{"a":1}', "req_headers": ["Host: own.example"]}
    configure(etcd, gateway, upstream_of(one, checks={"active": active}))
    wait_until(lambda: one.probes, "a probe")
    assert one.probes[0].startswith(b"POST /health HTTP/1.1\r\nHost: own.example\r\nContent-Length: 7\r\n")
    assert one.probes[0].endswith(b'\r\n\r\n{"a":1}')


def test_refusals_and_time_outs_count_as_what_they_are(
    etcd: Etcd, gateway: Gateway, one: CheckedUpstream, two: CheckedUpstream
) -> None:
    one.refuse()
    two.delay = 5
    configure(etcd, gateway, upstream_of(one, two, checks={"active": {**ACTIVE, "timeout": 0.2}}))
    wait_for(gateway, one, "unhealthy")
    wait_for(gateway, two, "unhealthy")
    assert node(gateway, one)["counter"]["tcp_failure"] == 1
    assert node(gateway, two)["counter"]["timeout_failure"] == 1
    one.listen()
    two.delay = 0
    wait_for(gateway, one, "healthy")
    wait_for(gateway, two, "healthy")


def test_when_all_nodes_are_unhealthy_all_are_used(
    etcd: Etcd, gateway: Gateway, one: CheckedUpstream, two: CheckedUpstream
) -> None:
    one.health = two.health = 500
    configure(etcd, gateway, upstream_of(one, two, checks={"active": ACTIVE}))
    wait_for(gateway, one, "unhealthy")
    wait_for(gateway, two, "unhealthy")
    wait_until(lambda: names(gateway) == {b"one", b"two"}, "both are used")


def test_tcp_probes_need_a_connection_only(etcd: Etcd, gateway: Gateway, one: CheckedUpstream) -> None:
    one.health = 500
    configure(etcd, gateway, upstream_of(one, checks={"active": {**ACTIVE, "type": "tcp"}}))
    wait_until(lambda: one.connections >= 2, "probes")
    assert node(gateway, one)["status"] == "healthy"
    one.refuse()
    wait_for(gateway, one, "unhealthy")
    one.listen()
    wait_for(gateway, one, "healthy")
    assert not one.probes


def test_https_probes_verify_the_certificate_unless_told_not_to(tmp_path: Path, etcd: Etcd) -> None:
    tls, certificate = self_signed(tmp_path, "checked.example")
    seen: list[str | None] = []
    tls.sni_callback = lambda _socket, name, _context: seen.append(name)
    gateway = Gateway(tmp_path, etcd.url, ssl={"ssl_trusted_certificate": str(certificate)})
    with CheckedUpstream("tls", tls) as upstream:
        try:
            gateway.start()
            wrong = {**ACTIVE, "type": "https", "host": "other.example"}
            configure(etcd, gateway, upstream_of(upstream, checks={"active": wrong}))
            wait_for(gateway, upstream, "unhealthy")
            assert node(gateway, upstream)["counter"]["tcp_failure"] == 1
            assert not upstream.probes
            unverified = {**wrong, "https_verify_certificate": False}
            configure(etcd, gateway, upstream_of(upstream, checks={"active": unverified}))
            wait_for(gateway, upstream, "healthy")
            assert b"\r\nHost: other.example\r\n" in upstream.probes[0]
            right = {**wrong, "host": "checked.example"}
            configure(etcd, gateway, upstream_of(upstream, checks={"active": right}))
            wait_until(lambda: b"\r\nHost: checked.example\r\n" in upstream.probes[-1], "a verified probe")
            assert node(gateway, upstream)["status"] == "healthy"
            assert set(seen) == {"other.example", "checked.example"}
        finally:
            gateway.kill()


def test_what_requests_show_counts(etcd: Etcd, gateway: Gateway, one: CheckedUpstream, two: CheckedUpstream) -> None:
    passive = {"unhealthy": {"http_statuses": [503], "http_failures": 3}, "healthy": {"successes": 2}}
    configure(etcd, gateway, upstream_of(one, two, checks={"active": RARELY, "passive": passive}))
    wait_until(lambda: node(gateway, one)["status"] == "healthy", "a checker")
    one.status = 503
    wait_until(lambda: names(gateway) == {b"two"}, "one is left out")
    assert node(gateway, one)["status"] == "unhealthy"
    assert node(gateway, two)["status"] == "healthy"
    assert not one.probes
    assert re.search("is unhealthy, was (mostly_)?healthy: http_failure by a request", gateway.log())


def test_tries_that_fail_count_even_without_passive_checks(
    etcd: Etcd, gateway: Gateway, one: CheckedUpstream, two: CheckedUpstream
) -> None:
    one.refuse()
    configure(etcd, gateway, upstream_of(one, two, checks={"active": RARELY}))
    wait_until(lambda: names(gateway) == {b"two"} and node(gateway, one)["status"] == "unhealthy", "one is left out")
    assert node(gateway, one)["counter"]["tcp_failure"] == 2


def test_a_node_by_name_is_probed_where_connections_go(tmp_path: Path, etcd: Etcd, one: CheckedUpstream) -> None:
    with DnsServer() as dns:
        gateway = Gateway(tmp_path, etcd.url, dns_resolver=[dns.address])
        dns.put("node.test", "A", "127.0.0.1")
        nodes = {f"node.test:{one.port}": 1}
        try:
            gateway.start()
            configure(etcd, gateway, {"nodes": nodes, "checks": {"active": ACTIVE}})
            wait_until(lambda: one.probes, "a probe")
            assert b"\r\nHost: node.test\r\n" in one.probes[0]
            assert (node(gateway, one)["ip"], node(gateway, one)["status"]) == ("node.test", "healthy")
            dns.put("node.test", "A", "127.0.0.2")  # where nobody listens
            wait_for(gateway, one, "unhealthy")
        finally:
            gateway.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_another_worker_takes_over_when_the_prober_dies_or_hangs(
    number: signal.Signals, etcd: Etcd, gateway: Gateway, one: CheckedUpstream, two: CheckedUpstream
) -> None:
    configure(etcd, gateway, upstream_of(one, two, checks={"active": ACTIVE}))
    one.health = 500
    wait_for(gateway, one, "unhealthy")
    first = prober(gateway)
    os.kill(first, number)
    try:
        wait_until(lambda: prober(gateway) != first, "another prober")
        seen = len(two.probes)
        wait_until(lambda: len(two.probes) >= seen + 2, "it probes")
        one.health = 200
        wait_until(lambda: re.search(r"is healthy, was unhealthy", gateway.log()), "one has recovered")
    finally:
        if number is signal.SIGSTOP:
            os.kill(first, signal.SIGCONT)
    if number is signal.SIGSTOP:
        seen, connections = len(two.probes), two.connections
        wait_until(lambda: len(two.probes) >= seen + 2, "probes go on")
        assert two.connections <= connections + 3  # and come from one worker only
    assert len(re.findall(r"is unhealthy, was healthy", gateway.log())) == 1  # no state was lost on the way


@pytest.mark.parametrize("mode", ["slot", "all"])
def test_states_survive_a_reload_and_changes_of_the_nodes(
    etcd: Etcd, gateway: Gateway, one: CheckedUpstream, two: CheckedUpstream, mode: str
) -> None:
    checks = {"active": RARELY, "passive": {"unhealthy": {"tcp_failures": 1}}}
    one.refuse()
    configure(etcd, gateway, upstream_of(one, two, checks=checks))
    wait_until(lambda: names(gateway) == {b"two"} and node(gateway, one)["status"] == "unhealthy", "one is left out")
    one.listen()
    old = gateway.workers()
    gateway.write_conf(reload={"mode": mode, "grace": 0.1})
    assert gateway.command("-s", "reload").returncode == 0
    wait_until(lambda: not gateway.workers() & old, "the old generation has gone")
    assert node(gateway, one)["status"] == "unhealthy"
    assert names(gateway) == {b"two"}
    with CheckedUpstream("three") as three:
        configure(etcd, gateway, upstream_of(one, two, three, checks=checks))
        assert node(gateway, one)["status"] == "unhealthy"
        assert names(gateway) == {b"two", b"three"}
    configure(etcd, gateway, upstream_of(one, two, checks={**checks, "active": {**RARELY, "http_path": "/health/2"}}))
    assert names(gateway) == {b"two"}
    assert not one.requests


def test_inline_upstreams_have_checks_of_their_own(etcd: Etcd, gateway: Gateway, one: CheckedUpstream) -> None:
    etcd.put("services/s", {"upstream": upstream_of(one, checks={"active": ACTIVE})})
    etcd.put("routes/1", {"uri": "/1", "service_id": "s"})
    etcd.put("upstreams/plain", {"nodes": {f"127.0.0.1:{one.port}": 1}})
    upstream = upstream_of(one, checks={"active": {**ACTIVE, "http_path": "/health/2", "port": free_port()}})
    apply(gateway, etcd.put("routes/2", {"uri": "/2", "upstream": upstream}))
    wait_until(lambda: gateway.control("/v1/healthcheck/routes/2")[1]["nodes"][0]["status"] == "unhealthy", "no port")
    assert node(gateway, one, "services/s")["status"] == "healthy"
    answer = gateway.control("/v1/healthcheck")[1]
    assert [(entry["name"], entry["type"]) for entry in sorted(answer, key=lambda entry: str(entry["name"]))] == [
        ("/apisix/routes/2", "http"),
        ("/apisix/services/s", "http"),
    ]
    assert gateway.control("/v1/healthcheck/upstreams/plain") == (404, {"error_msg": "no checker for upstreams[plain]"})
    assert gateway.control("/v1/healthcheck/fruits/1")[0] == 400


def test_a_browser_sees_a_table(etcd: Etcd, gateway: Gateway, one: CheckedUpstream) -> None:
    configure(etcd, gateway, upstream_of(one, checks={"active": ACTIVE}))
    connection = http.client.HTTPConnection("127.0.0.1", gateway.control_port, timeout=10)
    connection.request("GET", "/v1/healthcheck", headers={"Accept": "text/html,application/xhtml+xml"})
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    assert answer.getheader("Content-Type") == "text/html; charset=utf-8"
    assert f"<td>127.0.0.1:{one.port}</td><td>healthy</td>" in page


def test_checks_can_be_switched_off(tmp_path: Path, etcd: Etcd, one: CheckedUpstream, two: CheckedUpstream) -> None:
    gateway = Gateway(tmp_path, etcd.url, disable_upstream_healthcheck=True)
    try:
        gateway.start()
        one.status = two.health = 500
        passive = {"unhealthy": {"http_failures": 1}}
        configure(etcd, gateway, upstream_of(one, two, checks={"active": ACTIVE, "passive": passive}))
        assert gateway.control("/v1/healthcheck") == (200, {})
        assert names(gateway) == {b"one", b"two"}
        assert names(gateway) == {b"one", b"two"}
        assert not one.probes
        assert not two.probes
    finally:
        gateway.kill()
