"""Client connections over transports of the test's own, so that what arrives when is no accident."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from config_sync.cache import ConfigStore
from config_sync.schema import Timeout
from config_sync.settings import Settings
from tests.fakes.client_transport import ClientTransport
from worker.context import WorkerContext
from worker.errors import PeerClosed
from worker.http.http1_client import Http1Client
from worker.http.http1_server import MAX_WHOLE_BODY_BYTES, Http1Server
from worker.routing.conditions import compile_condition
from worker.routing.pattern import Pattern
from worker.routing.route import Route
from worker.upstream.balancers.roundrobin import RoundRobin
from worker.upstream.peer import Peer, Upstream, UpstreamCell
from worker.upstream.pool import PoolKey

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Transport(ClientTransport):
    """Notes the writes one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(data)


class Bench:
    """A worker with two peers, an idle connection to each, and a client."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()
        configured = Settings(runtime_dir=str(directory), access_log=False, **settings)
        self.context = context = WorkerContext(configured, self.loop, ConfigStore())
        self.peers: list[Http1Client] = []
        nodes = []
        for host in ("10.0.1.1", "10.0.1.2"):
            pool = context.pools.use(PoolKey("http", host, 80, 10, 60.0, 1000))
            nodes.append(Peer(host, 80, 1, 0, pool))
            self.peers.append(Http1Client(context, pool))
            self.peers[-1].connection_made(Transport())  # type: ignore[arg-type]
            pool.release(self.peers[-1])
        upstream = Upstream("u", nodes, RoundRobin(nodes), None, 1, Timeout(1, 1, 1), "pass", None)
        cell = UpstreamCell("u", upstream)
        context.router.add(Route("1", (Pattern("/*"),), (), frozenset(), 0, upstream=cell, websocket=True))
        self.client = Http1Server(context)
        self.client.connection_made(Transport())  # type: ignore[arg-type]

    def sent(self, peer: int) -> list[bytes]:
        """Return what a peer was sent since the last look: the request line's target, and what follows the head."""
        return _taken(self.peers[peer].transport)

    def answered(self) -> list[bytes]:
        """Return what the client was sent since the last look."""
        return _taken(self.client.transport)

    def settle(self) -> None:
        """Run what is due in the event loop."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def close(self) -> None:
        self.client.coroutine.close()
        self.context.builder.close()
        self.loop.close()


def _taken(transport: object) -> list[bytes]:
    assert isinstance(transport, Transport)
    taken, transport.writes = transport.writes, []
    return taken


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.close()


def post(target: str, body: bytes, method: str = "POST") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def get(target: str) -> bytes:
    return f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def line_and_body(wire: bytes) -> tuple[bytes, bytes]:
    head, _, body = wire.partition(b"\r\n\r\n")
    return head.partition(b" HTTP")[0], body


def test_a_small_body_leaves_with_its_head(bench: Bench) -> None:
    for number, body in enumerate([b"abc", b"def", b"x" * MAX_WHOLE_BODY_BYTES]):
        bench.client.data_received(post("/a", body))
        (wire,) = bench.sent(number % 2)
        assert line_and_body(wire) == (b"POST /a", body)
        bench.peers[number % 2].data_received(ANSWER)
        assert len(bench.answered()) == 1


@pytest.mark.parametrize("at", [0, 1])
def test_a_body_that_comes_later_follows(bench: Bench, at: int) -> None:
    data = post("/a", b"abc")
    for peer in range(2):  # the second time the head is known
        bench.client.data_received(data[: len(data) - 3 + at])
        bench.client.data_received(data[len(data) - 3 + at :])
        assert line_and_body(b"".join(bench.sent(peer))) == (b"POST /a", b"abc")
        bench.peers[peer].data_received(ANSWER)
        assert len(bench.answered()) == 1


def test_a_small_body_is_sent_again_to_the_next_peer(bench: Bench) -> None:
    bench.client.data_received(post("/a", b"abc", "PUT"))
    (first,) = bench.sent(0)
    bench.peers[0].connection_lost(None)
    assert bench.sent(1) == [first]
    bench.peers[1].data_received(ANSWER)
    (answer,) = bench.answered()
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_small_body_is_not_sent_again_by_post(bench: Bench) -> None:
    bench.client.data_received(post("/a", b"abc"))
    bench.peers[0]._exchange.fail(PeerClosed("closed"))  # type: ignore[union-attr]
    assert not bench.sent(1)
    (answer,) = bench.answered()
    assert answer.startswith(b"HTTP/1.1 502 ")


def test_bodies_above_the_limit_are_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path, client_max_body_size=3)
    bench.client.data_received(post("/a", b"abc"))
    assert bench.sent(0)
    bench.peers[0].data_received(ANSWER)
    bench.answered()
    bench.client.data_received(post("/a", b"abcd"))
    (answer,) = bench.answered()
    assert answer.startswith(b"HTTP/1.1 413 ")
    bench.close()


def test_requests_sent_ahead_are_not_overtaken(bench: Bench) -> None:
    bench.client.data_received(get("/1") + post("/2", b"abc") + get("/3")[:9])
    bench.peers[0].data_received(ANSWER)
    bench.client.data_received(get("/3")[9:])  # in the same round of the event loop
    bench.settle()
    targets = [line_and_body(wire) for peer in (0, 1) for wire in bench.sent(peer)]
    assert targets == [(b"GET /1", b""), (b"POST /2", b"abc")]
    bench.peers[1].data_received(ANSWER)
    bench.settle()
    assert [line_and_body(wire) for wire in bench.sent(0)] == [(b"GET /3", b"")]
    bench.peers[0].data_received(ANSWER)
    assert len(bench.answered()) == 3


def test_an_empty_line_behind_a_body_begins_no_request(bench: Bench) -> None:
    bench.client.data_received(post("/a", b"abc") + b"\r\n")
    bench.peers[0].data_received(ANSWER)
    bench.settle()
    assert "IDLE" in repr(bench.client)
    bench.client.data_received(get("/b"))
    assert [line_and_body(wire) for wire in bench.sent(1)] == [(b"GET /b", b"")]


def test_a_connection_is_freed_without_the_collector(bench: Bench) -> None:
    def alive() -> int:
        return sum(isinstance(one, Http1Server) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = alive()
        client = Http1Server(bench.context)
        client.connection_made(Transport())  # type: ignore[arg-type]
        client.data_received(get("/a"))
        bench.peers[0].data_received(ANSWER)
        client.data_received(post("/a", b"abc"))
        bench.peers[1].data_received(ANSWER)
        assert alive() == before + 1
        client.connection_lost(None)
        del client
        assert alive() == before
    finally:
        gc.enable()


def test_equal_heads_with_other_bodies_take_other_routes(bench: Bench) -> None:
    condition, is_repeatable = compile_condition([["request_body", "==", "abc"]])
    nowhere = Route("2", (Pattern("/*"),), (), frozenset(), 1, condition=condition, repeatable=is_repeatable)
    bench.context.router.add(nowhere)
    statuses = []
    for body in (b"xyz", b"abc", b"xyz"):
        bench.client.data_received(post("/a", body))
        for peer in (0, 1):
            if bench.sent(peer):
                bench.peers[peer].data_received(ANSWER)
        statuses.append(bench.answered()[0][9:12])
    assert statuses == [b"200", b"503", b"200"]


def test_a_large_head_behind_another_request(tmp_path: Path) -> None:
    bench = Bench(tmp_path, large_client_header_buffers=1 << 18)
    transport = bench.client.transport
    assert isinstance(transport, Transport)
    large = get("/2")[:-2] + b"X: " + b"x" * 200_000 + b"\r\n\r\n"
    bench.client.data_received(get("/1"))
    bench.client.data_received(large[:100_000])
    assert not transport.reads
    bench.peers[0].data_received(ANSWER)
    bench.settle()
    assert transport.reads
    bench.client.data_received(large[100_000:])
    assert line_and_body(bench.sent(1)[0])[0] == b"GET /2"
    bench.close()


@pytest.mark.parametrize("full", ["peer", "client"])
def test_a_tunnel_knows_who_was_full_before(bench: Bench, full: str) -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n"
    peer, client = bench.peers[0], bench.client
    bench.client.data_received(get("/")[:-2] + b"Upgrade: other\r\nConnection: upgrade\r\n\r\n")
    (peer if full == "peer" else client).pause_writing()
    peer.data_received(switching)
    (tunnel,) = bench.context.tunnels
    ends = {"peer": tunnel._peer, "client": tunnel._client}
    reads = {name: cast("Transport", end.transport).reads for name, end in ends.items()}
    assert reads == {"peer": full != "client", "client": full != "peer"}
    ends[full].resume_writing()
    assert all(cast("Transport", end.transport).reads for end in ends.values())
    tunnel.abort()
