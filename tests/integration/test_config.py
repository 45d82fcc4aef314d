"""Routes written into etcd are served by every worker, without a reload."""

import os
import signal
import socket

from tests.fakes.processes import Etcd, Gateway, request, wait_until
from tests.fakes.upstream import Upstream


def connections(gateway: Gateway) -> list[socket.socket]:
    """One connection to each worker."""
    return [gateway.connection_to(pid) for pid in sorted(gateway.workers())]


def statuses(socks: list[socket.socket], path: str) -> set[int]:
    return {request(sock, path)[0] for sock in socks}


def test_put_change_and_delete_become_visible_on_every_worker(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    etcd.delete("routes/1")
    socks = connections(gateway)
    wait_until(lambda: statuses(socks, "/x") == {404}, "the route is gone from every worker")
    node = {f"127.0.0.1:{upstream.port}": 1}
    etcd.put("routes/2", {"uri": "/x", "upstream": {"nodes": node}})
    wait_until(lambda: statuses(socks, "/x") == {200}, "a new route")
    etcd.put("routes/2", {"uri": "/y", "upstream": {"nodes": node}})
    wait_until(lambda: statuses(socks, "/x") == {404} and statuses(socks, "/y") == {200}, "a changed route")
    etcd.delete("routes/2")
    wait_until(lambda: statuses(socks, "/y") == {404}, "a deleted route")
    for sock in socks:
        sock.close()


def test_upstreams_and_services_by_reference(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    etcd.put("routes/2", {"uri": "/ref", "service_id": 7})
    wait_until(lambda: gateway.get("/ref")[0] == 404, "a service that is missing")
    etcd.put("services/7", {"upstream_id": "u"})
    wait_until(lambda: gateway.get("/ref")[0] == 502, "an upstream that is missing")
    etcd.put("upstreams/u", {"nodes": []})
    wait_until(lambda: gateway.get("/ref")[0] == 503, "an upstream without nodes")
    etcd.put("upstreams/u", {"nodes": [{"host": "127.0.0.1", "port": upstream.port, "weight": 1}]})
    wait_until(lambda: gateway.get("/ref")[0] == 200, "all there")
    etcd.put("services/7", {"upstream_id": "u", "hosts": ["only.com"]})
    wait_until(lambda: gateway.get("/ref", "only.com")[0] == 200 and gateway.get("/zzz")[0] == 200, "service hosts")


def test_bad_values_keep_the_last_good_one_and_harm_no_other(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    node = {f"127.0.0.1:{upstream.port}": 1}
    etcd.put("routes/good", {"uri": "/good", "hosts": ["g.com"], "upstream": {"nodes": node}})
    wait_until(lambda: gateway.get("/good", "g.com")[0] == 200, "a good route")
    etcd.put("routes/good", b"{not json")
    etcd.put("routes/bad", {"uri": "/bad", "hosts": ["g.com"], "upstream": {"nodes": {"127.0.0.1:1": "heavy"}}})
    etcd.put("routes/", b"init_dir")
    etcd.put("routes/after", {"uri": "/after", "hosts": ["g.com"], "upstream": {"nodes": node}})
    wait_until(lambda: gateway.get("/after", "g.com")[0] == 200, "what came after the bad ones")
    wait_until(lambda: "routes/bad" in gateway.log(), "the complaint")
    assert gateway.get("/good", "g.com")[0] == 200
    assert "$.upstream.nodes['127.0.0.1:1']: weight" in gateway.log()
    etcd.put("routes/bad", {"uri": "/bad", "hosts": ["g.com"], "upstream": {"nodes": node}})
    wait_until(lambda: gateway.get("/bad", "g.com")[0] == 200, "healed")


def test_etcd_killed_and_back_loses_no_update(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    node = {f"127.0.0.1:{upstream.port}": 1}
    etcd.kill()
    assert gateway.get("/still")[0] == 200
    etcd.start()
    revision = etcd.put("routes/2", {"uri": "/two", "hosts": ["b.com"], "upstream": {"nodes": node}})
    etcd.delete("routes/1")
    etcd.compact(revision + 1)
    wait_until(lambda: gateway.get("/still")[0] == 404 and gateway.get("/two", "b.com")[0] == 200, "caught up")


def test_a_worker_accepts_nobody_before_its_configuration(gateway: Gateway, etcd: Etcd) -> None:
    etcd.kill()
    before = gateway.workers()
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(gateway.workers()) == 2 and gateway.workers() != before, "a new worker")
    with socket.create_connection(("127.0.0.1", gateway.port)):
        assert gateway.log().count("is ready at revision") == 2
    etcd.start()
    wait_until(lambda: gateway.log().count("is ready at revision") == 3, "the new worker is ready")
    for sock in connections(gateway):
        assert request(sock, "/x")[0] == 200
        sock.close()
