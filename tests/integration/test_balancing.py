"""Balancers, limits and references, with real workers and real upstreams."""

import contextlib
import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import Etcd, Gateway, etcd_and_gateway, free_port, request, wait_until
from tests.fakes.upstream import Upstream


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Etcd, Gateway]]:
    """One gateway with two workers for the whole module."""
    with etcd_and_gateway(tmp_path_factory.mktemp("balancing")) as running:
        yield running


@pytest.fixture
def etcd(shared: tuple[Etcd, Gateway]) -> Etcd:
    return shared[0]


@pytest.fixture
def gateway(shared: tuple[Etcd, Gateway]) -> Gateway:
    return shared[1]


@pytest.fixture
def slow() -> Iterator[Upstream]:
    with Upstream("slow", delay=0.05) as running:
        yield running


@pytest.fixture
def fast() -> Iterator[Upstream]:
    with Upstream("fast") as running:
        yield running


def put(gateway: Gateway, etcd: Etcd, key: str, value: dict[str, Any]) -> None:
    """Write a value and wait until all workers have it."""
    gateway.applied(etcd.put(key, value))


def balance(gateway: Gateway, etcd: Etcd, nodes: list[Upstream], **fields: Any) -> None:
    """Lead /* to nodes."""
    weights = {f"127.0.0.1:{node.port}": 1 for node in nodes}
    put(gateway, etcd, "upstreams/1", {"nodes": weights, **fields})
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream_id": "1"})


def ask(gateway: Gateway, clients: int, requests: int, path: str = "/") -> "Counter[tuple[int, str]]":
    """Ask from several connections at once; returns how often each status and body came."""
    answers: Counter[tuple[int, str]] = Counter()
    lock = threading.Lock()

    def client() -> None:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as sock:
            for _ in range(requests):
                status, body = request(sock, path)
                with lock:
                    answers[status, body.decode() if status == 200 else ""] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.parametrize("type_", ["least_conn", "ewma"])
def test_the_quicker_upstream_gets_most_requests(
    gateway: Gateway, etcd: Etcd, slow: Upstream, fast: Upstream, type_: str
) -> None:
    balance(gateway, etcd, [slow, fast], type=type_)
    answers = ask(gateway, clients=8, requests=25)
    assert answers[200, "slow"] + answers[200, "fast"] == 200
    assert answers[200, "fast"] >= 160


def test_round_robin_does_not_care(gateway: Gateway, etcd: Etcd, slow: Upstream, fast: Upstream) -> None:
    balance(gateway, etcd, [slow, fast])
    answers = ask(gateway, clients=4, requests=10)
    assert abs(answers[200, "slow"] - 20) <= 2


def test_all_workers_hash_alike(gateway: Gateway, etcd: Etcd, slow: Upstream, fast: Upstream) -> None:
    slow.delay = 0
    balance(gateway, etcd, [slow, fast], type="chash", key="uri")
    owners = {path: ask(gateway, 1, 1, path) for path in (f"/{at}" for at in range(20))}
    assert {body for answers in owners.values() for _, body in answers} == {"slow", "fast"}
    for pid in gateway.workers():
        with gateway.connection_to(pid) as sock:
            for path, answers in owners.items():
                status, body = request(sock, path)
                assert (status, body.decode()) in answers


def test_what_is_beyond_max_conns_waits(gateway: Gateway, etcd: Etcd, slow: Upstream) -> None:
    balance(gateway, etcd, [slow], max_conns=2)
    answers = ask(gateway, clients=12, requests=3)
    assert answers == {(200, "slow"): 36}
    assert slow.busiest <= 2 * len(gateway.workers())


def test_what_does_not_fit_into_the_queue_is_refused(gateway: Gateway, etcd: Etcd, slow: Upstream) -> None:
    slow.delay = 1.0
    balance(gateway, etcd, [slow], max_conns=1, queue={"size": 1, "timeout": 10})
    pid = min(gateway.workers())
    clients = [gateway.connection_to(pid) for _ in range(3)]
    for sock in clients[:2]:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n")
    wait_until(lambda: slow.busy == 1, "one is served")
    assert request(clients[2], "/") == (503, request(clients[2], "/")[1])
    clients[0].close()  # its place becomes free, the one that waits goes on
    wait_until(lambda: len([head for head in slow.requests if head.startswith(b"GET / ")]) == 2, "the next is served")
    for sock in clients:
        sock.close()


def test_waiting_too_long_is_refused(gateway: Gateway, etcd: Etcd, slow: Upstream) -> None:
    slow.delay = 1.0
    balance(gateway, etcd, [slow], max_conns=1, queue={"timeout": 0.1})
    pid = min(gateway.workers())
    with gateway.connection_to(pid) as first, gateway.connection_to(pid) as second:
        first.sendall(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n")
        wait_until(lambda: slow.busy == 1, "one is served")
        assert request(second, "/")[0] == 503


def test_a_new_node_takes_those_who_wait(gateway: Gateway, etcd: Etcd, slow: Upstream, fast: Upstream) -> None:
    slow.delay = 30.0
    balance(gateway, etcd, [slow], max_conns=1)
    pid = min(gateway.workers())
    with gateway.connection_to(pid) as first, gateway.connection_to(pid) as second:
        for sock in (first, second):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n")
        wait_until(lambda: slow.busy == 1, "one is served")
        balance(gateway, etcd, [slow, fast], max_conns=1)
        assert b"fast" in second.recv(65536)


def test_lower_priorities_take_over(gateway: Gateway, etcd: Etcd, slow: Upstream, fast: Upstream) -> None:
    slow.delay = 0
    nodes = [
        {"host": "127.0.0.1", "port": fast.port, "weight": 1, "priority": -1},
        {"host": "127.0.0.1", "port": slow.port, "weight": 1},
    ]
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": {"nodes": nodes}})
    assert ask(gateway, 2, 5) == {(200, "slow"): 10}
    nodes[1]["port"] = free_port()
    put(gateway, etcd, "routes/1", {"uri": "/*", "upstream": {"nodes": nodes}})
    assert ask(gateway, 2, 5) == {(200, "fast"): 10}


def test_a_removed_node_loses_its_idle_connections(
    gateway: Gateway, etcd: Etcd, slow: Upstream, fast: Upstream
) -> None:
    slow.delay = 0
    balance(gateway, etcd, [slow, fast])
    ask(gateway, clients=4, requests=10)
    assert connections_to(slow) > 0
    balance(gateway, etcd, [fast])
    wait_until(lambda: connections_to(slow) == 0, "idle connections closed", patience=5)


def connections_to(upstream: Upstream) -> int:
    """Count the established connections to an upstream."""
    port = f":{upstream.port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(words[2].endswith(port) and words[3] == "01" for words in map(str.split, lines))


@pytest.mark.parametrize(
    ("route", "status"),
    [
        ({"upstream_id": "missing"}, 502),
        ({"plugins": {}}, 503),
        ({"upstream": {"nodes": {}}}, 503),
        ({"upstream": {"nodes": []}}, 503),
        ({"upstream": {"type": "fancy", "nodes": {"127.0.0.1:1": 1}}}, 500),
        ({"upstream_id": "missing", "upstream": {"nodes": {"127.0.0.1:1": 1}}}, 502),
        ({"service_id": "with-upstream-id", "upstream": {"nodes": {}}}, 503),
        ({"service_id": "with-upstream-id"}, 502),
        ({"service_id": "with-upstream", "upstream_id": "missing"}, 502),
    ],
)
def test_where_a_route_leads(gateway: Gateway, etcd: Etcd, route: dict[str, Any], status: int) -> None:
    etcd.put("services/with-upstream-id", {"upstream_id": "missing"})
    etcd.put("services/with-upstream", {"upstream": {"nodes": {}}})
    put(gateway, etcd, "routes/1", {"uri": "/*", **route})
    answered, body = gateway.get("/")
    assert answered == status, json.dumps(body.decode())


def reload(gateway: Gateway) -> None:
    """Reload without a pause for proof, and wait for all workers of the new generation."""
    gateway.write_conf(reload={"grace": 0.1, "drain_wait": 0.5})
    done = gateway.command("-s", "reload")
    assert done.returncode == 0, done.stderr


def test_what_drains_after_a_reload_counts_for_least_conn(
    gateway: Gateway, etcd: Etcd, slow: Upstream, fast: Upstream
) -> None:
    balance(gateway, etcd, [slow], type="least_conn")
    with contextlib.ExitStack() as held:
        for _ in range(8):
            sock = held.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=20))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is no half close
            sock.sendall(b"GET /slow?s=300 HTTP/1.1\r\nHost: a.com\r\n\r\n")
        wait_until(lambda: slow.busy == 8, "all are under way")
        balance(gateway, etcd, [slow, fast], type="least_conn")
        old = gateway.workers()
        reload(gateway)
        assert gateway.workers() & old  # they drain
        answers: Counter[str] = Counter()
        for _ in range(16):  # over new connections: the first choices of both workers are among them
            answers[gateway.get("/")[1].decode()] += 1
        assert answers == {"fast": 16}
    wait_until(lambda: not gateway.workers() & old, "the old workers have ended")


def test_a_reload_does_not_forget_who_is_slow(gateway: Gateway, etcd: Etcd, slow: Upstream, fast: Upstream) -> None:
    slow.delay = 0.4
    balance(gateway, etcd, [slow, fast], type="ewma")
    ask(gateway, clients=8, requests=6)
    before = len(slow.requests)
    assert before > 0
    reload(gateway)
    ask(gateway, clients=8, requests=1)  # all at once: what they take cannot be known before they have chosen
    assert len(slow.requests) == before


def test_a_reload_leaves_keys_where_they_are(gateway: Gateway, etcd: Etcd, slow: Upstream, fast: Upstream) -> None:
    slow.delay = 0
    balance(gateway, etcd, [slow, fast], type="chash", key="uri")
    paths = [f"/{at}" for at in range(20)]
    owners = [gateway.get(path) for path in paths]
    reload(gateway)
    assert [gateway.get(path) for path in paths] == owners
