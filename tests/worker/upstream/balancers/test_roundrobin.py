"""Round robin: shares, order, and what stays when nodes come and go."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tests.worker.upstream.balancers.values import ANY, peer
from worker.upstream.balancers.roundrobin import LONGEST_CYCLE, RoundRobin
from worker.upstream.peer import Peer

WEIGHTS = st.lists(st.integers(0, 9), min_size=1, max_size=6)


def take(balancer: RoundRobin, count: int, tried: tuple[Peer, ...] = ()) -> str:
    return "".join(str(balancer.next(ANY, tried))[0] for _ in range(count))


def test_the_heavier_peer_is_spread() -> None:
    assert take(RoundRobin([peer("a", 3), peer("b", 1)]), 12) == "aabaaabaaaba"


def test_weights_count_in_proportion() -> None:
    assert take(RoundRobin([peer("a", 300), peer("b", 100)]), 8) == "aabaaaba"


@given(WEIGHTS, st.integers(0, 20))
def test_every_window_of_a_cycle_honours_the_weights(weights: list[int], start: int) -> None:
    peers = [peer(f"p{at}", weight) for at, weight in enumerate(weights)]
    effective = weights if any(weights) else [1] * len(weights)
    expected = Counter({f"p{at}:80": weight for at, weight in enumerate(effective) if weight})
    balancer = RoundRobin(peers, start)
    picks = [repr(balancer.next(ANY)) for _ in range(3 * sum(effective))]
    for at in range(2 * sum(effective)):
        assert Counter(picks[at : at + sum(effective)]) == expected


@given(WEIGHTS, st.integers(1, 60))
def test_what_is_repeated_is_what_would_be_picked(weights: list[int], count: int) -> None:
    effective = weights if any(weights) else [1] * len(weights)
    current = [0] * len(weights)
    peers = [peer(f"p{at}", weight) for at, weight in enumerate(weights)]
    balancer = RoundRobin(peers)
    for _ in range(count):
        current = [now + weight for now, weight in zip(current, effective, strict=True)]
        best = max((at for at, weight in enumerate(effective) if weight), key=lambda at: current[at])
        current[best] -= sum(effective)
        assert balancer.next(ANY) is peers[best]
    known = balancer.current_weights()
    assert known == {each: now for each, now, weight in zip(peers, current, effective, strict=True) if weight}


def test_long_cycles_are_exact_and_not_written_down() -> None:
    weights = (LONGEST_CYCLE, 1, 7)
    balancer = RoundRobin([peer(name, weight) for name, weight in zip("abc", weights, strict=True)])
    picks = Counter(take(balancer, sum(weights) * 3))
    assert picks == {"a": 3 * LONGEST_CYCLE, "b": 3, "c": 21}


def test_workers_start_with_different_peers() -> None:
    peers = [peer(name) for name in "abc"]
    assert [take(RoundRobin(peers, start), 4) for start in range(4)] == ["abca", "bcab", "cabc", "abca"]


def test_tried_peers_give_their_turns_to_all_others() -> None:
    peers = [peer(name) for name in "abc"]
    balancer = RoundRobin(peers)
    take(balancer, 6)
    picks = Counter(take(balancer, 60, tried=(peers[0],)))
    assert picks == {"b": 30, "c": 30}


def test_an_unhealthy_peer_is_left_out_and_comes_back() -> None:
    peers = [peer(name) for name in "abc"]
    balancer = RoundRobin(peers)
    assert take(balancer, 4) == "abca"
    balancer.set_unhealthy([peers[1]])
    assert take(balancer, 2) == "cc"  # what it was owed; a has just been taken twice
    assert Counter(take(balancer, 10)) == {"a": 5, "c": 5}
    balancer.set_unhealthy([])
    assert Counter(take(balancer, 30)) == {"a": 10, "b": 10, "c": 10}


def test_a_new_node_does_not_start_the_cycle_again() -> None:
    old = RoundRobin([peer(name) for name in "abc"])
    assert take(old, 4) == "abca"
    new = RoundRobin([peer(name) for name in "abcd"])
    new.inherit(old)
    assert take(new, 3) == "bcd"
    assert old.next(ANY) is not None  # requests that began before still use the old one


def test_a_changed_weight_keeps_what_is_owed() -> None:
    old = RoundRobin([peer("a", 5), peer("b", 1)])
    assert take(old, 3) == "aaa"
    new = RoundRobin([peer("a", 4), peer("b", 1)])
    new.inherit(old)
    assert new.current_weights() == dict(zip(new.peers, [-3, 3], strict=True))
    assert take(new, 1) == "b"


@given(WEIGHTS, st.integers(0, 30), st.integers(0, 5))
def test_what_is_inherited_soon_honours_the_weights(weights: list[int], picks: int, gone: int) -> None:
    old = RoundRobin([peer(f"p{at}", weight) for at, weight in enumerate(weights)])
    for _ in range(picks):
        old.next(ANY)
    staying = [weight for at, weight in enumerate(weights) if at != gone] or [1]
    new = RoundRobin([peer(f"p{at}", weight) for at, weight in enumerate(weights) if at != gone] or [peer("z")])
    new.inherit(old)
    effective = staying if any(staying) else [1] * len(staying)
    for _ in range(3 * sum(effective) + 3 * sum(weights)):
        new.next(ANY)
    shares = Counter(new.next(ANY) for _ in range(sum(effective)))
    assert sorted(shares.values()) == sorted(weight for weight in effective if weight)
