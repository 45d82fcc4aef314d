"""The balancers honour weights, priorities and what has been tried."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.upstream.balancers import RoundRobin, build
from worker.upstream.peer import Peer
from worker.upstream.pool import Pool, PoolKey


def peer(host: str, weight: int = 1, priority: int = 0) -> Peer:
    return Peer(host, 80, weight, priority, Pool(PoolKey("http", host, 80, 1, 60.0, 1000)))


def test_smooth_round_robin_spreads_the_heavier_peer() -> None:
    balancer = RoundRobin([peer("a", 3), peer("b", 1)])
    assert "".join(str(balancer.next())[0] for _ in range(8)) == "aabaaaba"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 20))
def test_every_cycle_honours_the_weights(weights: list[int], start: int) -> None:
    peers = [peer(f"p{at}", weight) for at, weight in enumerate(weights)]
    effective = weights if any(weights) else [1] * len(weights)
    balancer = RoundRobin(peers, start)
    picks = Counter(repr(balancer.next()) for _ in range(sum(effective)))
    assert picks == Counter({f"p{at}:80": weight for at, weight in enumerate(effective) if weight})


def test_tried_peers_are_left_out() -> None:
    peers = [peer("a"), peer("b")]
    balancer = build("roundrobin", peers, 0)
    assert balancer is not None
    assert balancer.next(peers[:1]) is peers[1]
    assert balancer.next(peers) is None


def test_lower_priorities_wait_for_the_higher_to_have_been_tried() -> None:
    first, second, spare = peer("a", priority=1), peer("b", priority=1), peer("c")
    balancer = build("roundrobin", [spare, first, second], 0)
    assert balancer is not None
    assert {balancer.next() for _ in range(6)} == {first, second}
    assert balancer.next([first, second]) is spare


def test_single_peer_is_used_even_with_weight_zero() -> None:
    only = peer("a", 0)
    balancer = build("roundrobin", [only], 0)
    assert balancer is not None
    assert balancer.next() is only


def test_no_peers_and_unknown_types() -> None:
    assert build("roundrobin", [], 0) is None
    with pytest.raises(KeyError):
        build("fancy", [peer("a")], 0)
