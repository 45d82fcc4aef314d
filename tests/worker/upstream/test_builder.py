"""What an upstream is made of, and what stays when it is changed."""

import asyncio
from typing import Any

import pytest

from config_sync import schema
from config_sync.steps import Stepper
from tests.fakes.upstreams import upstream_builder
from tests.worker.upstream.balancers.values import exchange
from worker.errors import UnknownBalancer
from worker.http.http1_client import Http1Client
from worker.upstream.balancers.chash import ConsistentHash
from worker.upstream.balancers.roundrobin import RoundRobin
from worker.upstream.balancers.single import Single
from worker.upstream.balancing import Balancing
from worker.upstream.builder import UpstreamBuilder
from worker.upstream.peer import Upstream
from worker.upstream.pool import Pools

HEALTHY = schema.HealthChecks(active=schema.upstreams.ActiveChecks())


def config(nodes: dict[str, int], **fields: Any) -> schema.Upstream:
    made = []
    for address, weight in nodes.items():
        host, _, port = address.rpartition(":")
        made.append(schema.Node(host, weight, int(port)))
    return schema.Upstream(nodes=tuple(made), **fields)


@pytest.fixture
def builder() -> UpstreamBuilder:
    pools: Pools[Http1Client] = Pools()
    return upstream_builder(pools)


def choices(upstream: Upstream, count: int) -> list[str]:
    assert upstream.balancer is not None
    return [repr(upstream.balancer.next(exchange())) for _ in range(count)]


def test_an_ordinary_upstream_is_not_tracked(builder: UpstreamBuilder) -> None:
    made = builder.build("1", config({"a:80": 1, "b:80": 1}))
    assert isinstance(made.balancer, RoundRobin)
    assert made.queue is None
    assert isinstance(builder.build("1", config({"a:80": 1})).balancer, Single)


def test_missing_ports_are_those_of_the_scheme(builder: UpstreamBuilder) -> None:
    nodes = (schema.Node("a", 1), schema.Node("[::1]", 1, 8080))
    assert [each.address for each in builder.build("1", schema.Upstream(nodes=nodes)).peers] == ["a:80", "[::1]:8080"]


def test_without_nodes_there_is_no_balancer(builder: UpstreamBuilder) -> None:
    for type_ in ("roundrobin", "chash", "least_conn", "ewma"):
        assert builder.build("1", config({}, type=type_, key="uri")).balancer is None


def test_an_unknown_type_makes_requests_fail(builder: UpstreamBuilder) -> None:
    balancer = builder.build("1", config({"a:80": 1}, type="fancy")).balancer
    assert balancer is not None
    with pytest.raises(UnknownBalancer, match="upstream 1: there is no type fancy"):
        balancer.next(exchange())


def test_a_new_node_does_not_start_the_round_again(builder: UpstreamBuilder) -> None:
    old = builder.build("1", config({"a:80": 1, "b:80": 1}))
    assert choices(old, 3) == ["a:80", "b:80", "a:80"]
    new = builder.build("1", config({"a:80": 1, "b:80": 1, "c:80": 1}), old)
    assert choices(new, 3) == ["b:80", "c:80", "a:80"]


@pytest.mark.parametrize("type_", ["least_conn", "ewma"])
def test_loads_of_nodes_that_stay_are_handed_on(builder: UpstreamBuilder, type_: str) -> None:
    old = builder.build("1", config({"a:80": 1, "b:80": 1}, type=type_))
    begun = exchange()
    assert old.balancer is not None
    chosen = old.balancer.next(begun)
    assert chosen is not None
    new = builder.build("1", config({"b:80": 2, "c:80": 1, "a:80": 1}, type=type_), old)
    loads = {each.address: each.load for each in new.peers}
    assert loads[chosen.address].active == 1
    assert begun.place is not None
    begun.place.leave(begun)
    assert [load.active for load in loads.values()] == [0, 0, 0]


def test_health_is_handed_on_while_it_is_checked(builder: UpstreamBuilder) -> None:
    nodes = {"a:80": 1, "b:80": 1}
    old = builder.build("1", config(nodes, checks=HEALTHY))
    assert old.balancer is not None
    old.balancer.set_unhealthy([old.peers[0]])
    still = builder.build("1", config({**nodes, "c:80": 1}, checks=HEALTHY), old)
    assert {*choices(still, 6)} == {"b:80", "c:80"}
    assert {*choices(builder.build("1", config(nodes), old), 6)} == {"a:80", "b:80"}


def test_max_conns_of_an_upstream_and_of_a_node(builder: UpstreamBuilder) -> None:
    nodes = (schema.Node("a", 1), schema.Node("b", 1, max_conns=3), schema.Node("c", 1, max_conns=0))
    made = builder.build("1", schema.Upstream(nodes=nodes, max_conns=2, queue=schema.Queue(7, 1.5)))
    assert [each.max_conns for each in made.peers] == [2, 3, float("inf")]
    assert made.queue is not None
    assert (made.queue.size, made.queue.timeout) == (7, 1.5)


def test_the_queue_outlasts_a_change(builder: UpstreamBuilder) -> None:
    async def scenario() -> None:
        old = builder.build("1", config({"a:80": 1}, max_conns=1))
        new = builder.build("1", config({"a:80": 1, "b:80": 1}, max_conns=1), old)
        assert new.queue is old.queue
        assert builder.build("1", config({"a:80": 1}), new).queue is None

    asyncio.run(scenario())


def test_equal_nodes_share_a_ring(builder: UpstreamBuilder) -> None:
    made = [builder.build(str(at), config({"a:80": 1, "b:80": 1}, type="chash", key="uri")) for at in range(2)]
    rings = [each.balancer.ring for each in made if isinstance(each.balancer, ConsistentHash)]
    assert len(rings) == 2
    assert rings[0] is rings[1]


def test_a_large_ring_is_built_beside_the_loop() -> None:
    async def scenario() -> None:
        pools: Pools[Http1Client] = Pools()
        loop = asyncio.get_running_loop()
        builder = upstream_builder(pools, loop, balancing=Balancing(0, Stepper(loop)))
        made = builder.build("1", config({f"10.0.0.{at}:80": 1 for at in range(50)}, type="chash", key="uri"))
        assert made.balancer is not None
        assert made.balancer.next(exchange("/x")) is None  # to be waited for
        assert made.queue is not None
        while made.balancer.next(exchange("/x")) is None:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        changed = builder.build("1", config({f"10.0.0.{at}:80": 1 for at in range(49)}, type="chash", key="uri"), made)
        assert changed.balancer is not None
        assert changed.balancer.next(exchange("/x")) is not None  # by the ring before
        assert changed.queue is None

    asyncio.run(scenario())


def test_pools_of_nodes_that_stay_are_kept(builder: UpstreamBuilder) -> None:
    old = builder.build("1", config({"a:80": 1, "b:80": 1}))
    new = builder.build("1", config({"a:80": 5, "c:80": 1}), old)
    builder.discard(old)
    assert new.peers[0].pool is old.peers[0].pool
    assert not old.peers[0].pool.retired
    assert old.peers[1].pool.retired
    other = builder.build("1", config({"a:80": 5}, keepalive_pool=schema.KeepalivePool(size=1)), new)
    assert other.peers[0].pool is not new.peers[0].pool
