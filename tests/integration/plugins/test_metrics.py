"""Metrics of a real gateway: added up over workers, and kept across deaths and reloads."""

import http.client
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import Etcd, Gateway, free_port, wait_until
from tests.fakes.upstream import Upstream
from tests.worker.plugins.scraped import Sample, samples, value

PATH = "/apisix/prometheus/metrics"
REQUESTS = 20


class Scraper:
    """A gateway whose metrics are asked for."""

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.gateway = gateway
        self._port = port

    def ask(self, path: str = PATH, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def scrape(self) -> list[Sample]:
        status, text = self.ask()
        assert status == 200
        return samples(text)

    def counts(self, route: str) -> float:
        return value(self.scrape(), "apisix_http_status", {"route": route})

    def request_all_workers(self, path: str) -> None:
        """Send ``REQUESTS`` requests, at least one to each worker."""
        workers = self.gateway.workers()
        for pid in workers:
            with self.gateway.connection_to(pid) as sock:
                sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n".encode())
                while sock.recv(65536):
                    pass
        for _ in range(REQUESTS - len(workers)):
            assert self.gateway.get(path)[0] == 200


@pytest.fixture
def scraper(tmp_path: Path, etcd: Etcd, upstream: Upstream) -> Iterator[Scraper]:
    """A gateway with two workers and two routes, of which ``counted`` and ``other`` are counted."""
    nodes = {"nodes": {f"127.0.0.1:{upstream.port}": 1}}
    etcd.put("routes/1", {"uri": "/*", "upstream": nodes})
    for name in ("counted", "second"):
        etcd.put(f"routes/{name}", {"uri": f"/{name}", "upstream": nodes, "plugins": {"prometheus": {}}})
    port = free_port()
    settings = {"prometheus": {"export_addr": {"ip": "127.0.0.1", "port": port}}}
    gateway = Gateway(tmp_path, etcd.url, plugin_attr=settings)
    gateway.start()
    yield Scraper(gateway, port)
    gateway.kill()


def test_counts_of_all_workers_survive_deaths_and_reloads(scraper: Scraper, etcd: Etcd) -> None:
    gateway = scraper.gateway
    scraper.request_all_workers("/counted")
    wait_until(lambda: scraper.counts("counted") == REQUESTS, "all are counted")
    victim = min(gateway.workers())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in gateway.workers() and len(gateway.workers()) == 2, "another worker")
    assert scraper.counts("counted") == REQUESTS
    scraper.request_all_workers("/counted")
    wait_until(lambda: scraper.counts("counted") == 2 * REQUESTS, "the new one counts, too")
    before = gateway.workers()
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: len(gateway.workers()) == 2 and not before & gateway.workers(), "all workers are new")
    assert scraper.counts("counted") == 2 * REQUESTS
    wait_until(lambda: value(scraper.scrape(), "propylon_reloads_total", {"result": "ok"}) == 1, "the reload is over")
    found = scraper.scrape()
    assert value(found, "propylon_generation") == 2
    assert value(found, "propylon_worker_restarts_total") == 1
    assert value(found, "apisix_http_requests_total") >= 2 * REQUESTS
    assert scraper.counts("second") == 0
    etcd.delete("routes/counted")
    wait_until(lambda: scraper.counts("counted") == 0, "the series of a deleted route vanish")


def test_the_last_requests_of_a_worker_that_drains_are_counted(scraper: Scraper) -> None:
    gateway = scraper.gateway
    for _ in range(REQUESTS):
        gateway.get("/counted")
    before = gateway.workers()
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: len(gateway.workers()) == 2 and not before & gateway.workers(), "all workers are new")
    assert scraper.counts("counted") == REQUESTS


def test_what_is_told_of_the_gateway_itself(scraper: Scraper, etcd: Etcd) -> None:
    gateway = scraper.gateway
    gateway.applied(etcd.put("routes/bad", {"uri": 7}))
    gateway.applied(etcd.put("routes/good", {"uri": "/good", "upstream": {"nodes": {"127.0.0.1:1": 1}}}))

    def is_told() -> bool:
        found = scraper.scrape()
        return (
            value(found, "propylon_worker_rejected_objects") == 2
            and value(found, "propylon_propagation_seconds_count") >= 2
        )

    wait_until(is_told, "rejected objects and propagation")
    found = scraper.scrape()
    names = {name for name, _, _ in found}
    assert value(found, "apisix_etcd_reachable") == 1
    assert value(found, "apisix_node_info") == 1
    assert value(found, "propylon_workers", {"state": "ready"}) == 2
    assert value(found, "propylon_loop_lag_seconds_count") > 0
    assert value(found, "apisix_etcd_modify_indexes", {"key": "routes"}) > 0
    assert names >= {
        "apisix_nginx_http_current_connections",
        "apisix_nginx_metric_errors_total",
        "apisix_shared_dict_capacity_bytes",
        "apisix_shared_dict_free_space_bytes",
        "propylon_metric_series",
        "propylon_worker_revision",
        "propylon_worker_revision_lag",
        "propylon_worker_resident_bytes",
        "propylon_worker_connections",
        "propylon_worker_upstream_connections",
    }
    assert {own["state"] for name, own, _ in found if name == "apisix_nginx_http_current_connections"} == {
        "active",
        "accepted",
        "handled",
        "reading",
        "writing",
        "waiting",
    }


def test_only_metrics_are_served_there(scraper: Scraper) -> None:
    assert scraper.ask("/")[0] == 404
    assert scraper.ask(method="POST")[0] == 405
    assert scraper.ask(method="HEAD") == (200, "")


def test_health_of_upstreams(tmp_path: Path, scraper: Scraper, etcd: Etcd, upstream: Upstream) -> None:
    checks = {"active": {"http_path": "/", "healthy": {"interval": 1}, "unhealthy": {"interval": 1, "tcp_failures": 1}}}
    nodes = {f"127.0.0.1:{upstream.port}": 1, f"127.0.0.1:{free_port()}": 1}
    etcd.put("upstreams/u", {"nodes": nodes, "checks": checks})
    scraper.gateway.applied(etcd.put("routes/u", {"uri": "/u", "upstream_id": "u"}))
    scraper.gateway.get("/u")

    def states() -> list[float]:
        return sorted(number for name, _, number in scraper.scrape() if name == "apisix_upstream_status")

    wait_until(lambda: states() == [0, 1], "one node is told to be down")


def test_an_address_that_nobody_has_chosen_is_done_without(tmp_path: Path, etcd: Etcd) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 9091))
            taken.listen()
        except OSError:
            pass  # somebody else has it: just as well
        gateway = Gateway(tmp_path, etcd.url, plugin_attr={})
        try:
            gateway.start()
            assert "metrics are not served" in gateway.log()
        finally:
            gateway.kill()


def test_one_that_was_chosen_is_not(tmp_path: Path, etcd: Etcd) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        chosen = {"prometheus": {"export_addr": {"port": taken.getsockname()[1]}}}
        gateway = Gateway(tmp_path, etcd.url, plugin_attr=chosen)
        gateway.launch()
        assert gateway.process is not None
        assert gateway.process.wait(20) != 0
        assert "plugin_attr.prometheus.export_addr: cannot bind" in (tmp_path / "output").read_text() + gateway.log()
