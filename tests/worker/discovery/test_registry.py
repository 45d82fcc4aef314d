"""A discovery that is not ours, and upstreams that follow what it says."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from config_sync import schema
from config_sync.cache import Change, ConfigStore, Entry
from config_sync.schema import Node
from tests.fakes.certificates import Certificates
from tests.fakes.upstreams import upstream_builder
from worker.discovery.nodes import DiscoveredNodes, first_nodes
from worker.discovery.registry import Service
from worker.exchange import Exchange, suspend
from worker.routing.router import Router
from worker.switcher import Switcher
from worker.upstream.peer import Upstream
from worker.upstream.pool import Pools


class Book:
    """A discovery that knows what a test writes into it."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}

    def watch(self, service: Service) -> Callable[[], None]:
        if service.name == "unreadable":
            raise ValueError("is not in the form of a book")
        self.services[service.name] = service

        def stop() -> None:
            del self.services[service.name]

        return stop

    def close(self) -> None:
        pass


class World:
    """A store with all that listens to it, as in a worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.book = Book()
        self.pools: Pools[Any] = Pools()
        self.builder = upstream_builder(self.pools, loop, {"book": self.book})
        self.store = ConfigStore()
        self.switcher = Switcher(self.store, Router(), self.builder)
        self._revision = 0
        self._loop = loop

    def run_a_round(self) -> None:
        """Let the event loop do what was put off."""
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()

    def put(self, *values: tuple[str, object]) -> None:
        """Apply values as one revision."""
        self._revision += 1
        self.store.apply([self._entry(*value) for value in values], self._revision)

    def put_staged(self, values: Sequence[tuple[str, object]]) -> None:
        """Apply values as a snapshot."""
        self._revision += 1
        incoming = self.store.receive()
        for _ in incoming.add([self._entry(*value) for value in values]):
            pass
        for _ in incoming.complete(self._revision):
            pass

    def _entry(self, key: str, value: object) -> Entry:
        return Entry(key, json.dumps(value).encode(), self._revision)

    def upstream(self, id_: str = "1") -> Upstream:
        found = self.switcher.upstream_cell(id_).current
        assert found is not None
        return found

    def hosts(self, id_: str = "1") -> list[str]:
        return [peer.host for peer in self.upstream(id_).peers]


@pytest.fixture
def world() -> Iterator[World]:
    loop = asyncio.new_event_loop()
    made = World(loop)
    yield made
    made.builder.close()
    loop.close()


def in_book(name: str = "shop", **more: object) -> dict[str, object]:
    return {"discovery_type": "book", "service_name": name, **more}


def test_upstreams_follow_their_service(world: World) -> None:
    world.put(
        ("upstreams/1", in_book()), ("upstreams/2", in_book(scheme="https")), ("upstreams/3", {"nodes": {"c": 1}})
    )
    assert world.upstream().balancer is None
    untouched = world.upstream("3")
    world.book.services["shop"].publish([Node("10.0.0.2", 1), Node("10.0.0.1", 1, 81)])
    assert world.hosts() == world.hosts("2") == ["10.0.0.1", "10.0.0.2"]
    assert [peer.port for peer in world.upstream("2").peers] == [81, 443]
    assert world.upstream("3") is untouched

    before = world.upstream()
    pool = before.peers[0].pool
    world.book.services["shop"].publish([Node("10.0.0.1", 1, 81), Node("10.0.0.2", 1)])
    assert world.upstream() is before  # the order means nothing
    world.book.services["shop"].publish([Node("10.0.0.1", 1, 81), Node("10.0.0.3", 1)])
    assert world.hosts() == ["10.0.0.1", "10.0.0.3"]
    assert world.upstream().peers[0].pool is pool
    assert {used.key.host for used in world.pools} == {"10.0.0.1", "10.0.0.3", "c"}


def test_failures_keep_the_nodes_and_nobody_is_an_answer(world: World) -> None:
    world.put(("upstreams/1", in_book()))
    service = world.book.services["shop"]
    service.fail("the book is closed")
    assert world.upstream().reason_unusable() == "book service shop the book is closed"
    service.publish([Node("10.0.0.1", 1)])
    service.fail("the book is closed")
    assert world.hosts() == ["10.0.0.1"]
    service.publish([])
    assert world.upstream().balancer is None
    assert world.upstream().reason_unusable() == "book service shop has no nodes"


def test_a_service_is_watched_as_long_as_somebody_uses_it(world: World) -> None:
    world.put(("upstreams/1", in_book()), ("upstreams/2", in_book()), ("upstreams/3", in_book("other")))
    service = world.book.services["shop"]
    service.publish([Node("10.0.0.1", 1)])
    world.put(("upstreams/1", in_book(retries=3)))
    assert world.book.services["shop"] is service
    assert world.hosts() == ["10.0.0.1"]  # known at once
    world.put(("upstreams/1", {"nodes": {"a": 1}}), ("upstreams/2", {"nodes": {"a": 1}}))
    assert list(world.book.services) == ["other"]


def test_what_comes_while_changes_are_staged_is_not_lost(world: World) -> None:
    staging = world.switcher.stage()
    value, _ = schema.decode_upstream("1", json.dumps(in_book()).encode())
    staging.add([Change("upstreams", "1", value)])
    world.book.services["shop"].publish([Node("10.0.0.1", 1)])
    staging.commit()
    assert world.hosts() == ["10.0.0.1"]


def test_upstreams_of_routes_and_services(world: World) -> None:
    world.put_staged(
        [
            ("services/1", {"upstream": in_book("a")}),
            ("routes/1", {"uri": "/a", "service_id": "1"}),
            ("routes/2", {"uri": "/b", "upstream": in_book("b")}),
        ]
    )
    for name in ("a", "b"):
        world.book.services[name].publish([Node(f"{name}.test", 1)])
    service, route = world.switcher.service_cell("1").upstream, world.switcher.routes["2"].upstream
    assert service is not None
    assert route is not None
    assert service.current is not None
    assert route.current is not None
    assert [peer.host for peer in (*service.current.peers, *route.current.peers)] == ["a.test", "b.test"]
    world.put_staged([("routes/1", {"uri": "/a", "upstream": {"nodes": {"c.test": 1}}})])
    assert world.book.services == {}
    assert {pool.key.host for pool in world.pools} == {"c.test"}


def test_what_cannot_be_watched(world: World) -> None:
    world.put(("upstreams/1", in_book("unreadable")), ("upstreams/2", {**in_book(), "discovery_type": "nacos"}))
    assert world.upstream("1").reason_unusable() == "service_name unreadable: is not in the form of a book"
    assert "discovery_type nacos is not enabled" in world.upstream("2").reason_unusable()


class Waiting:
    """Requests that want the first nodes of upstream 1, as ``serve`` does; each later waits for something else."""

    def __init__(self, world: World) -> None:
        self.ended: list[Exchange] = []
        self._world = world
        self._coroutines: list[Any] = []

    def begin(self) -> None:
        """Let one more come."""

        class Downstream:
            coroutine: Any

        downstream = Downstream()
        exchange = Exchange(downstream, 0.0)  # type: ignore[arg-type]
        discovered = self._world.upstream().discovered
        assert discovered is not None
        downstream.coroutine = self._wait(exchange, discovered)
        self._coroutines.append(downstream.coroutine)
        downstream.coroutine.send(None)

    async def _wait(self, exchange: Exchange, discovered: DiscoveredNodes) -> None:
        await first_nodes(exchange, discovered)
        self.ended.append(exchange)
        exchange.waiting = object()
        await suspend()

    def close(self) -> None:
        for coroutine in self._coroutines:
            coroutine.close()


@pytest.fixture
def requests(world: World) -> Iterator[Waiting]:
    made = Waiting(world)
    yield made
    made.close()


def test_requests_wait_until_something_is_known(world: World, requests: Waiting) -> None:
    world.put(("upstreams/1", in_book()))
    requests.begin()
    requests.begin()
    assert requests.ended == []
    world.book.services["shop"].publish([Node("10.0.0.1", 1)])
    assert len(requests.ended) == 2
    requests.begin()
    assert len(requests.ended) == 3


def test_requests_do_not_wait_for_a_service_that_is_watched_no_more(world: World, requests: Waiting) -> None:
    world.put(("upstreams/1", in_book()))
    requests.begin()
    world.put(("upstreams/1", {"nodes": {"a": 1}}))
    assert world.book.services == {}
    world.run_a_round()
    assert len(requests.ended) == 1


def test_certificates_of_a_snapshot_are_used_by_its_upstreams(world: World) -> None:
    cert, key = Certificates().client("a")
    world.put_staged(
        [
            ("upstreams/1", {"scheme": "https", "nodes": {"10.0.0.1": 1}, "tls": {"client_cert_id": "mine"}}),
            ("ssls/mine", {"type": "client", "cert": cert, "key": key}),
        ]
    )
    pool = world.upstream().peers[0].by_host
    assert pool is not None
    endpoint = pool.pool(b"a.com").endpoint
    assert endpoint is not None
    assert endpoint.profile is not None
    assert endpoint.profile.pairs == ((cert, key),)


def test_a_service_of_a_route_that_changes_while_the_old_one_is_put_away(world: World) -> None:
    world.put(("services/1", {"upstream": in_book("a")}))
    world.book.services["a"].publish([Node("10.0.0.1", 1)])
    value, _ = schema.decode_service("1", json.dumps({"upstream": in_book("b")}).encode())
    staging = world.switcher.stage()
    staging.add([Change("services", "1", value)])
    staging.commit()
    world.book.services["a"].publish([Node("10.0.0.2", 1)])
    for _ in staging.clean():
        pass
    assert list(world.pools) == []
    assert list(world.book.services) == ["b"]


def test_what_is_known_of_nodes_that_stay_is_taken_over(world: World) -> None:
    world.put(("upstreams/1", in_book(type="least_conn")))
    service = world.book.services["shop"]
    service.publish([Node("10.0.0.1", 1), Node("10.0.0.2", 1)])
    load = world.upstream().peers[1].load
    service.publish([Node("10.0.0.2", 1), Node("10.0.0.3", 1)])
    assert world.upstream().peers[0].load is load
