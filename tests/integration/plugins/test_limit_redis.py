"""limit-count, limit-req and limit-conn with a real Redis (plugins.md section 5)."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import redis
from tests.fakes.certificates import Certificates
from tests.fakes.processes import Etcd, Gateway, etcd_and_gateway, free_port, wait_until
from tests.fakes.redis import RedisServer
from tests.fakes.upstream import Upstream
from tests.integration.plugins.barrage import Barrage
from tests.worker.plugins.test_limit_conn import under_way
from worker.plugins.testing import Outcome, PluginKit

Server = tuple[RedisServer, dict[str, Any]]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """By policy a server, and how it is reached."""
    directory = tmp_path_factory.mktemp("redis")
    with ExitStack() as stack:
        alone = stack.enter_context(redis.plain(directory))
        cluster = stack.enter_context(redis.cluster(directory))
        redis.join(cluster)
        sentinel = stack.enter_context(redis.sentinel(directory, alone))
        sentinels = [{"host": "127.0.0.1", "port": sentinel.port}]
        yield {
            "redis": (alone, {"policy": "redis", "redis_host": "127.0.0.1", "redis_port": alone.port}),
            "redis-cluster": (
                cluster,
                {
                    "policy": "redis-cluster",
                    "redis_cluster_nodes": [f"127.0.0.1:{cluster.port}"],
                    "redis_cluster_name": "c",
                },
            ),
            "redis-sentinel": (
                alone,
                {"policy": "redis-sentinel", "redis_sentinels": sentinels, "redis_master_name": "first"},
            ),
        }


@pytest.fixture(params=["redis", "redis-cluster", "redis-sentinel"])
def any_server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    server, access = servers[request.param]
    server.call("flushall")
    return server, access


@pytest.fixture(params=["redis", "redis-cluster"])
def server(request: pytest.FixtureRequest, servers: dict[str, Server]) -> Server:
    found, access = servers[request.param]
    found.call("flushall")
    return found, access


def quota(answer: Outcome) -> tuple[int, str | None, str | None]:
    return answer.status, answer.header("x-ratelimit-limit"), answer.header("x-ratelimit-remaining")


def test_nodes_count_windows_together(any_server: Server) -> None:
    server, access = any_server
    plugins = {"limit-count": {"count": 3, "time_window": 60, **access}}
    with PluginKit(plugins) as one, PluginKit(plugins) as two:
        answers = [kit.request() for kit in (one, two, one, two)]
        assert list(map(quota, answers)) == [(200, "3", "2"), (200, "3", "1"), (200, "3", "0"), (503, "3", "0")]
        assert all(58 <= int(answer.header("x-ratelimit-reset") or 0) <= 60 for answer in answers)
        (key,) = server.call("keys", "*").split()
        assert key.startswith("plugin-limit-count:v1:routes/kit:")
        assert key.endswith(":127.0.0.1")
        assert server.call("type", key) == "string"
        assert 0 < int(server.call("ttl", key)) <= 60
        server.call("del", key)
        assert quota(one.request()) == (200, "3", "2")


def test_windows_that_slide(any_server: Server) -> None:
    _, access = any_server
    config = {"count": 3, "time_window": 100_000_000, "window_type": "sliding", **access}
    with PluginKit({"limit-count": config}) as kit:
        assert [quota(kit.request()) for _ in range(4)] == [(200, "3", left) for left in "210"] + [(503, "3", "0")]


def test_batches(server: Server) -> None:
    found, access = server
    config = {"count": 5, "time_window": 60, "sync_interval": 0.1, **access}
    with PluginKit({"limit-count": config}) as one, PluginKit({"limit-count": config}) as two:
        assert [quota(one.request())[2] for _ in range(3)] == ["4", "3", "2"]
        (key,) = found.call("keys", "*").split()
        wait_until(lambda: told(one, found, key) == "2", "the Redis is told")
        assert [quota(two.request())[0::2] for _ in range(3)] == [(200, "1"), (200, "0"), (503, "0")]
        wait_until(lambda: told(two, found, key) == "0", "the Redis is told")


def told(kit: PluginKit, server: RedisServer, key: str) -> str:
    kit.run(asyncio.sleep(0.02))
    return server.call("get", key)


def test_buckets(server: Server) -> None:
    found, access = server
    config = {"rate": 0.01, "burst": 2, "key": "remote_addr", "nodelay": True, **access}
    with PluginKit({"limit-req": config}) as one, PluginKit({"limit-req": config}) as two:
        assert [kit.request().status for kit in (one, two, one, two)] == [200, 200, 200, 503]
        (key,) = found.call("keys", "*").split()
        assert key.startswith("limit_req:routes/kit:")
        assert found.call("type", key) == "hash"
        assert int(found.call("ttl", key)) > 200


def test_buckets_delay(server: Server) -> None:
    with PluginKit({"limit-req": {"rate": 5, "burst": 2, "key": "remote_addr", **server[1]}}) as kit:
        began = time.monotonic()
        assert [kit.request().status for _ in range(2)] == [200, 200]
        assert time.monotonic() - began >= 0.1


def test_requests_under_way(server: Server) -> None:
    found, access = server
    config = {"conn": 2, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr", "key_ttl": 50, **access}
    with PluginKit({"limit-conn": config}) as one, PluginKit({"limit-conn": config}) as two:
        one.upstream_answers = b""  # it takes its time
        with under_way(one, 2):
            wait_until(lambda: (one.run(asyncio.sleep(0.01)), len(one.received) == 2)[1], "both are under way")
            assert two.request().status == 503
            (key,) = found.call("keys", "*").split()
            assert key.startswith("limit_conn:routes/kit:")
            assert found.call("type", key) == "zset"
            assert found.call("zcard", key) == "2"
            assert 0 < int(found.call("ttl", key)) <= 50
        wait_until(lambda: (one.run(asyncio.sleep(0.01)), found.call("zcard", key) == "0")[1], "both are given back")
        assert [two.request().status for _ in range(3)] == [200] * 3


UNCOUNTED = b'{"error_msg":"failed to limit count"}\n'


@pytest.mark.parametrize(
    ("plugin", "config", "body"),
    [
        ("limit-count", {"count": 1, "time_window": 60}, UNCOUNTED),
        (
            "limit-count",
            {"count": 1, "time_window": 60, "sync_interval": 1},
            b'{"error_msg":"failed to limit count"}\n',
        ),
        ("limit-req", {"rate": 1, "burst": 0, "key": "uri"}, b"<h1>500 "),
        ("limit-conn", {"conn": 1, "burst": 0, "key": "uri", "default_conn_delay": 1}, b"<h1>500 "),
    ],
)
def test_a_redis_that_fails(tmp_path: Path, plugin: str, config: dict[str, Any], body: bytes) -> None:
    with redis.plain(tmp_path) as server:
        access = {"policy": "redis", "redis_host": "127.0.0.1", "redis_port": server.port, "redis_timeout": 300}
        records = {
            "routes/passes": {
                "uri": "/passes",
                "upstream": {"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}},
                "plugins": {plugin: {**config, **access, "allow_degradation": True}},
            }
        }
        with PluginKit({plugin: {**config, **access}}, records) as kit:
            assert [kit.request().status, kit.request(target="/passes").status] == [200, 200]
            server.kill()
            answer = kit.request(target="/other", remote="1.1.1.1")
            assert (answer.status, body in answer.body) == (500, True)
            assert kit.request(target="/passes", remote="1.1.1.1").status == 200
            server.start()
            assert kit.request(target="/other", remote="1.1.1.1").status == 200  # at once


def test_a_password_and_a_database(tmp_path: Path) -> None:
    with redis.plain(tmp_path, "--requirepass", "secret") as server:
        access = {"policy": "redis", "redis_host": "127.0.0.1", "redis_port": server.port, "redis_database": 3}
        with PluginKit({"limit-count": {"count": 1, "time_window": 60, **access}}) as kit:
            assert kit.request().status == 500
        with PluginKit({"limit-count": {"count": 1, "time_window": 60, **access, "redis_password": "secret"}}) as kit:
            assert [kit.request().status for _ in range(2)] == [200, 503]
        assert server.call("-a", "secret", "-n", "3", "dbsize") == "1"


def test_tls(tmp_path: Path) -> None:
    certificates = Certificates()
    port, pem = free_port(), str(certificates.write_server(tmp_path / "server.pem"))
    authority = str(certificates.write_authority(tmp_path / "authority.pem"))
    files = "--tls-cert-file", pem, "--tls-key-file", pem, "--tls-ca-cert-file", authority
    with redis.plain(tmp_path, "--tls-port", str(port), "--tls-auth-clients", "no", *files):
        access = {"policy": "redis", "redis_host": "127.0.0.1", "redis_port": port, "redis_ssl": True}
        limit = {"count": 1, "time_window": 60, **access}
        with PluginKit({"limit-count": limit}) as kit:
            assert [kit.request().status for _ in range(2)] == [200, 503]
        with PluginKit({"limit-count": {**limit, "redis_ssl_verify": True}}) as kit:
            assert kit.request().status == 500
        settings = {"ssl": {"ssl_trusted_certificate": authority}}
        with PluginKit({"limit-count": {**limit, "redis_ssl_verify": True}}, settings=settings) as kit:
            assert [kit.request().status for _ in range(2)] == [200, 503]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Etcd, Gateway]]:
    with etcd_and_gateway(tmp_path_factory.mktemp("limits"), worker_processes=2) as running:
        yield running


def test_under_load_exactly_as_many_pass(server: Server, shared: tuple[Etcd, Gateway], upstream: Upstream) -> None:
    etcd, gateway = shared
    host = f"{server[1]['policy']}.com"
    route = {
        "uri": "/*",
        "host": host,
        "upstream": {"type": "roundrobin", "nodes": {f"127.0.0.1:{upstream.port}": 1}},
        "plugins": {"limit-count": {"count": 200, "time_window": 600, "redis_timeout": 20_000, **server[1]}},
    }
    gateway.applied(etcd.put(f"routes/{server[1]['policy']}", route))
    assert Barrage(gateway, host, most=1_000).run() == {200: 200, 503: 800}
    assert len(upstream.requests) == 200


def test_those_that_reach_the_same_redis_share_connections_until_nobody_needs_them(
    servers: dict[str, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.plugins.limiting.redis_client.GRACE", 0.3)
    server, access = servers["redis"]
    before = clients(server)
    plugins = {
        "limit-count": {"count": 100, "time_window": 60, **access},
        "limit-req": {"rate": 100, "burst": 100, "key": "uri", **access},
    }
    with PluginKit(plugins) as kit:
        for count in range(3):
            plugins["limit-count"]["count"] = 100 + count
            kit.put("routes/kit", route(plugins))
            assert kit.request().status == 200
            assert clients(server) == before + 1
        kit.put("routes/kit", route({}))
        assert kit.request().status == 200
        wait_until(lambda: (kit.run(asyncio.sleep(0.01)), clients(server) == before)[1], "the connection is closed")
    with PluginKit(plugins) as kit:
        assert kit.request().status == 200
        assert clients(server) == before + 1
    wait_until(lambda: clients(server) == before, "the connection is closed")


def clients(server: RedisServer) -> int:
    return server.call("client", "list", "type", "normal").count("\n") + 1


def route(plugins: dict[str, Any]) -> dict[str, Any]:
    return {"uri": "/*", "upstream": {"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}}, "plugins": plugins}
