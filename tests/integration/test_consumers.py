"""Consumers as APISIX writes them, secrets in Vault and a service that decides, in real workers."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.processes import PATIENCE, Etcd, Gateway, read_response, wait_until
from tests.fakes.upstream import Upstream
from tests.fakes.vault import Vault

# What APISIX 3.18.0 stores of the key auth-one (data-model.md section 13).
ENCRYPTED = "4y+JvURBE6ZwRbbgaryrhg=="


def send(sock: socket.socket, key: str, path: str = "/echo") -> int:
    """Ask with a key over a connection that stays open; returns the status."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a.com\r\napikey: {key}\r\n\r\n".encode())
    return read_response(sock)[0]


def ask(gateway: Gateway, key: str) -> int:
    """Ask with a key over a new connection."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE) as sock:
        return send(sock, key)


def in_each(gateway: Gateway, key: str) -> dict[int, int]:
    """Return by worker what a key gets."""
    found = {}
    for pid in gateway.workers():
        with gateway.connection_to(pid) as sock:
            found[pid] = send(sock, key)
    return found


def route(upstream: Upstream, plugins: dict[str, Any]) -> dict[str, Any]:
    return {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}, "plugins": plugins}


@pytest.fixture
def vault() -> Iterator[Vault]:
    running = Vault({"kv/apisix/jack": {"key": "from-vault"}})
    yield running
    running.close()


def test_an_encrypted_key_opens_the_route_in_every_worker_until_its_consumer_is_deleted(
    gateway: Gateway, etcd: Etcd, upstream: Upstream
) -> None:
    etcd.put("routes/1", route(upstream, {"key-auth": {}}))
    consumer = {"username": "jack", "plugins": {"key-auth": {"key": ENCRYPTED}}}
    gateway.applied(etcd.put("consumers/jack", consumer))
    assert set(in_each(gateway, "auth-one").values()) == {200}
    assert len(in_each(gateway, "auth-one")) == 2
    assert b"x-consumer-username: jack" in upstream.requests[-1].lower()
    for wrong in (ENCRYPTED, "auth-two", ""):
        assert set(in_each(gateway, wrong).values()) == {401}
    credential = {"plugins": {"key-auth": {"key": "Miw9nx9VcNLvGX0g835QIQ=="}}}
    gateway.applied(etcd.put("consumers/jack/credentials/second", credential))
    assert set(in_each(gateway, "auth-two").values()) == {200}
    etcd.delete("consumers/jack")
    gateway.applied(etcd.put("consumers/jill", {"username": "jill"}))
    for former in ("auth-one", "auth-two"):
        assert set(in_each(gateway, former).values()) == {401}


def test_a_reload_never_closes_what_a_secret_opens(
    gateway: Gateway, etcd: Etcd, upstream: Upstream, vault: Vault
) -> None:
    etcd.put("routes/1", route(upstream, {"key-auth": {}}))
    etcd.put("secrets/vault/1", vault.settings())
    reference = {"plugins": {"key-auth": {"key": "$secret://vault/1/jack/key"}}}
    gateway.applied(etcd.put("consumers/jack", reference))
    wait_until(lambda: set(in_each(gateway, "from-vault").values()) == {200}, "the secret in all workers")
    vault.delay = 0.5
    seen: list[int] = []
    is_over = threading.Event()

    def client() -> None:
        while not is_over.is_set():
            seen.append(ask(gateway, "from-vault"))

    clients = [threading.Thread(target=client) for _ in range(2)]
    for thread in clients:
        thread.start()
    done = gateway.command("-s", "reload")
    is_over.set()
    for thread in clients:
        thread.join()
    assert done.returncode == 0, done.stderr
    assert len(seen) > 10
    assert set(seen) == {200}
    assert set(in_each(gateway, "from-vault").values()) == {200}


def test_a_service_decides_in_every_worker_and_its_absence_refuses(
    gateway: Gateway, etcd: Etcd, upstream: Upstream
) -> None:
    with Upstream("service") as service:
        plugins = {
            "forward-auth": {
                "uri": f"http://127.0.0.1:{service.port}/status/204",
                "request_headers": ["apikey"],
                "upstream_headers": ["X-User"],
            }
        }
        gateway.applied(etcd.put("routes/1", route(upstream, plugins)))
        assert set(in_each(gateway, "k").values()) == {200}
        heads = [head.lower() for head in service.requests]
        assert all(b"x-forwarded-uri: /" in head for head in heads)
        assert any(b"apikey: k" in head for head in heads)
        plugins["forward-auth"]["uri"] = f"http://127.0.0.1:{service.port}/status/401"
        gateway.applied(etcd.put("routes/1", route(upstream, plugins)))
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE) as sock:
            assert [send(sock, "k") for _ in range(3)] == [401, 401, 401]
    assert ask(gateway, "k") == 403  # nobody is there


def test_a_vault_that_is_away_does_not_keep_workers_from_serving(
    gateway: Gateway, etcd: Etcd, upstream: Upstream, vault: Vault
) -> None:
    etcd.put("routes/1", route(upstream, {"key-auth": {}}))
    etcd.put("secrets/vault/1", vault.settings())
    etcd.put("consumers/jill", {"plugins": {"key-auth": {"key": "plain"}}})
    gateway.applied(etcd.put("consumers/jack", {"plugins": {"key-auth": {"key": "$secret://vault/1/jack/key"}}}))
    vault.delay = 60.0
    done = gateway.command("-s", "reload")
    assert done.returncode == 0, done.stderr
    assert ask(gateway, "plain") == 200
    assert ask(gateway, "from-vault") == 401
    vault.release()
    wait_until(lambda: ask(gateway, "from-vault") == 200, "the secret after all")
