"""Waiting for a peer with room: order, bounds, time-outs, and who lets whom go on."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, cast

import pytest

from tests.worker.upstream.balancers.values import exchange, peer
from worker.errors import BodyNeeded, ClientClosed, ProxyError, QueueFull, QueueTimeout
from worker.exchange import Exchange, suspend
from worker.http.http1_server import Http1Server
from worker.upstream.balancers.roundrobin import RoundRobin
from worker.upstream.balancers.tracked import Tracked
from worker.upstream.peer import Peer
from worker.upstream.queue import Queue


class Client:
    """Carries an exchange to a peer, or to an error, as ``serve`` does."""

    def __init__(self, balancer: Tracked, queue: Queue) -> None:
        self._balancer = balancer
        self._queue = queue
        self.exchange = Exchange(cast("Http1Server", self), 0.0)
        self.peer: Peer | None = None
        self.error: Exception | None = None
        self.coroutine: Coroutine[None, Any, None] = self._run()
        self._advance()

    def _advance(self) -> None:
        with contextlib.suppress(StopIteration):
            self.coroutine.send(None)

    async def _run(self) -> None:
        try:
            self.peer = self._balancer.next(self.exchange) or await self._queue.wait(self.exchange)
        except (ProxyError, BodyNeeded) as error:
            self.error = error
        await suspend()

    def leave(self) -> None:
        assert self.exchange.place is not None
        self.exchange.place.leave(self.exchange)

    def close(self) -> None:
        self.coroutine.close()


class Bench:
    """An upstream with nodes of ``max_conns`` 1."""

    def __init__(self, nodes: int = 1, size: int = 10, timeout: float = 60.0) -> None:
        self.peers = [peer(f"p{at}", max_conns=1) for at in range(nodes)]
        self.queue = Queue("1", size, timeout)
        self.balancer = Tracked(RoundRobin(self.peers), self.peers, None, self.queue)
        self.queue.choose = self.balancer.take
        self.clients: list[Client] = []

    def come(self) -> Client:
        self.clients.append(Client(self.balancer, self.queue))
        return self.clients[-1]


@pytest.fixture
def benches() -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        for client in bench.clients:
            client.close()


def test_those_who_wait_go_on_in_order(benches: list[Bench]) -> None:
    async def scenario() -> None:
        bench = Bench(nodes=2)
        benches.append(bench)
        clients = [bench.come() for _ in range(5)]
        assert [client.peer for client in clients] == [*bench.peers, None, None, None]
        for at in range(3):
            clients[at].leave()
            late = bench.come()
            assert late.peer is None  # nobody overtakes
            await asyncio.sleep(0)
            assert [client.peer is not None for client in clients[2:]] == [number <= at for number in range(3)]
        assert len(bench.queue.waiting) == 3

    asyncio.run(scenario())


def test_a_full_queue_refuses(benches: list[Bench]) -> None:
    async def scenario() -> None:
        bench = Bench(size=1)
        benches.append(bench)
        bench.come(), bench.come()
        assert isinstance(bench.come().error, QueueFull)
        assert len(bench.queue.waiting) == 1

    asyncio.run(scenario())


def test_waiting_ends_in_time(benches: list[Bench]) -> None:
    async def scenario() -> None:
        bench = Bench(timeout=0.01)
        benches.append(bench)
        first, *others = [bench.come() for _ in range(3)]
        while not others[-1].error:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)
        assert all(isinstance(client.error, QueueTimeout) for client in others)
        assert not bench.queue.waiting
        first.leave()
        assert bench.come().peer is bench.peers[0]

    asyncio.run(scenario())


def test_a_shorter_time_out_holds_for_those_who_come_later(benches: list[Bench]) -> None:
    async def scenario() -> None:
        bench = Bench(timeout=60.0)
        benches.append(bench)
        _, patient = bench.come(), bench.come()
        bench.queue.timeout = 0.01
        hasty = bench.come()
        while not hasty.error:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)
        assert patient.error is None

    asyncio.run(scenario())


def test_a_client_that_goes_leaves_the_queue(benches: list[Bench]) -> None:
    async def scenario() -> None:
        bench = Bench()
        benches.append(bench)
        first, second, third = [bench.come() for _ in range(3)]
        second.exchange.fail(ClientClosed())
        assert len(bench.queue.waiting) == 1
        first.leave()
        await asyncio.sleep(0)
        assert (second.peer, third.peer) == (None, bench.peers[0])

    asyncio.run(scenario())


def test_a_peer_that_is_healthy_again_takes_those_who_wait(benches: list[Bench]) -> None:
    async def scenario() -> None:
        bench = Bench(nodes=2)
        benches.append(bench)
        bench.balancer.set_unhealthy(bench.peers[:1])
        first, second = bench.come(), bench.come()
        assert (first.peer, second.peer) == (bench.peers[1], None)
        bench.balancer.set_unhealthy([])
        await asyncio.sleep(0)
        assert second.peer is bench.peers[0]

    asyncio.run(scenario())


def test_a_retry_does_not_wait_and_gives_its_place_back() -> None:
    async def scenario() -> None:
        bench = Bench(nodes=2)
        mine, other = exchange(), exchange()
        first = bench.balancer.next(mine)
        assert bench.balancer.next(other) is not None
        assert first is not None
        assert bench.balancer.next(mine, (first,)) is None
        assert [each.load.active for each in bench.peers] == [0, 1]

    asyncio.run(scenario())


def test_one_for_whom_nothing_can_be_chosen_does_not_hold_up_the_others(benches: list[Bench]) -> None:
    async def scenario() -> None:
        bench = Bench()
        benches.append(bench)
        first, second, third = [bench.come() for _ in range(3)]
        error = BodyNeeded(100)

        def choose(exchange: Exchange) -> Peer | None:
            if exchange is second.exchange:
                raise error
            return bench.balancer.take(exchange)

        bench.queue.choose = choose
        first.leave()
        await asyncio.sleep(0)
        assert second.error is error
        assert third.peer is bench.peers[0]
        assert not bench.queue.waiting

    asyncio.run(scenario())
