"""Consistent hashing: the vectors, how few keys move, and that all processes agree."""

import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.upstream.balancers.values import exchange, peer
from worker.upstream.balancers.chash import ConsistentHash
from worker.upstream.balancers.ring import MOST_POINTS, Ring
from worker.upstream.peer import Peer

KEYS = [b"user-%d" % number for number in range(100_000)]
REFERENCE = (("10.0.0.1:80", 1), ("10.0.0.2:80", 1), ("10.0.0.3:80", 2))


def ring(*nodes: tuple[str, int]) -> Ring:
    made = Ring(nodes)
    made.complete()
    return made


def owner(of: Ring, key: bytes) -> str:
    return of.nodes[of.owners[of.find(key)]][0]


def by_argument(peers: list[Peer]) -> ConsistentHash:
    return ConsistentHash(peers, lambda exchange: exchange.request.target if exchange.request is not None else b"")


# the reference's vectors (upstreams.md section 3)


@pytest.mark.parametrize(
    ("key", "node"),
    [
        (b"user-1", 1),
        (b"user-2", 2),
        (b"user-3", 1),
        (b"user-4", 3),
        (b"alice", 3),
        (b"bob", 3),
        (b"", 1),
        (b"/index.html", 1),
    ],
)
def test_vectors(key: bytes, node: int) -> None:
    assert owner(ring(*REFERENCE), key) == f"10.0.0.{node}:80"


def test_points() -> None:
    made = ring(*REFERENCE)
    assert len(made.points) == 160 * 4
    assert list(made.points) == sorted(made.points)
    assert Counter(made.owners) == {0: 160, 1: 160, 2: 320}


# what must hold of any ring


@given(st.permutations(REFERENCE), st.binary())
def test_the_order_of_nodes_does_not_matter(nodes: list[tuple[str, int]], key: bytes) -> None:
    assert owner(ring(*nodes), key) == owner(ring(*REFERENCE), key)


@given(st.lists(st.binary(max_size=8), max_size=20), st.integers(0, 9))
def test_without_a_node_only_its_own_keys_move(keys: list[bytes], gone: int) -> None:
    nodes = [(f"10.0.0.{at}:80", 1 + at % 3) for at in range(10)]
    before, after = ring(*nodes), ring(*nodes[:gone], *nodes[gone + 1 :])
    for key in keys:
        assert owner(before, key) in (nodes[gone][0], owner(after, key))


@pytest.mark.parametrize("network", ["10.0.0", "192.168.17", "172.16.4"])
def test_one_more_than_nine_nodes_takes_a_tenth_of_the_keys(network: str) -> None:
    nodes = [(f"{network}.{at}:8080", 1) for at in range(10)]
    before, after = ring(*nodes[:9]), ring(*nodes)
    moved = [owner(after, key) for key in KEYS if owner(before, key) != owner(after, key)]
    assert {*moved} == {nodes[9][0]}
    assert len(moved) <= 0.12 * len(KEYS)


def test_weights_are_honoured() -> None:
    nodes = [(f"10.0.0.{at}:80", weight) for at, weight in enumerate((1, 2, 3, 4))]
    made = ring(*nodes)
    shares = Counter(owner(made, key) for key in KEYS)
    for address, weight in nodes:
        assert abs(shares[address] / len(KEYS) - weight / 10) <= 0.02


def test_weights_without_a_common_divisor_do_not_make_a_ring_of_millions() -> None:
    made = Ring([("a:80", 1_000_003), ("b:80", 500_000)])
    assert made.count() <= MOST_POINTS
    assert Ring([("a:80", 10**12), ("b:80", 1)]).count() <= MOST_POINTS + 1


def test_a_change_uses_the_points_of_nodes_that_stay() -> None:
    before = ring(*REFERENCE)
    after = Ring((*REFERENCE[:2], ("10.0.0.3:80", 3), ("10.0.0.4:80", 1)))
    after.reuse(before)
    after.complete()
    fresh = ring(*after.nodes)
    assert (after.points, after.owners) == (fresh.points, fresh.owners)


def test_processes_with_other_hash_seeds_build_an_equal_ring() -> None:
    program = (
        "from worker.upstream.balancers.ring import Ring\n"
        "ring = Ring([(f'host-{at}.example:80', 1 + at % 4) for at in range(20)])\n"
        "ring.complete()\n"
        "import hashlib\n"
        "print(len(ring.points), hashlib.sha256(bytes(ring.points) + bytes(ring.owners)).hexdigest())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "4711")
    }
    assert len(seen) == 1


# the balancer


def test_peers_that_must_not_be_taken_are_skipped_and_no_other_key_moves() -> None:
    peers = [peer(f"10.0.0.{at}") for at in range(4)]
    balancer = by_argument(peers)
    exchanges = [exchange(f"/{number}") for number in range(500)]
    before = [balancer.next(each) for each in exchanges]
    balancer.set_unhealthy([peers[2]])
    after = [balancer.next(each) for each in exchanges]
    assert all(new is old for new, old in zip(after, before, strict=True) if old is not peers[2])
    assert peers[2] not in after
    assert [balancer.next(each, (peers[2],)) for each in exchanges] == after


def test_every_further_try_goes_on_along_the_ring() -> None:
    peers = [peer(f"10.0.0.{at}") for at in range(4)]
    balancer = by_argument(peers)
    tried: tuple[Peer, ...] = ()
    while (chosen := balancer.next(exchange("/x"), tried)) is not None:
        assert chosen not in tried
        tried = (*tried, chosen)
    assert {*tried} == {*peers}


def test_an_ipv6_node_is_hashed_with_its_brackets() -> None:
    assert by_argument([peer("[::1]"), peer("b")]).ring.nodes == (("[::1]:80", 1), ("b:80", 1))


def test_while_a_ring_is_being_built_the_one_before_answers() -> None:
    old = by_argument([peer("a"), peer("b"), peer("c")])
    assert old.next(exchange("/")) is not None
    new = by_argument([peer("a"), peer("c"), peer("d")])
    new.inherit(old)
    steps = new.ring.begin()
    for number in range(200):
        before, after = old.next(exchange(f"/{number}")), new.next(exchange(f"/{number}"))
        assert before is not None
        assert after in new.peers[:2]
        assert before.host in ("b", getattr(after, "host", ""))
    new.ring.when_complete(new.completed)
    for _ in steps:
        pass
    assert {new.next(exchange(f"/{number}")) for number in range(200)} == {*new.peers}


def test_without_a_ring_there_is_no_answer_yet() -> None:
    balancer = by_argument([peer("a"), peer("b")])
    steps = balancer.ring.begin()
    assert not balancer.can_answer()
    assert balancer.next(exchange()) is None
    for _ in steps:
        pass
    assert balancer.next(exchange()) is not None
