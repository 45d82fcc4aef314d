"""Fewest requests under way, in proportion to weights."""

from hypothesis import given
from hypothesis import strategies as st

from tests.worker.upstream.balancers.values import ANY, exchange, peer
from worker.exchange import Exchange
from worker.upstream.balancers.least_conn import LeastConnections
from worker.upstream.balancers.tracked import Tracked


def test_idle_peers_are_taken_in_turn() -> None:
    balancer = LeastConnections([peer(name) for name in "abc"])
    assert [str(balancer.next(ANY))[0] for _ in range(6)] == [*"abcabc"]


def test_workers_start_with_different_peers() -> None:
    peers = [peer(name) for name in "abc"]
    assert [str(LeastConnections(peers, start).next(ANY))[0] for start in range(4)] == [*"abca"]


def test_the_peer_that_answers_takes_the_requests() -> None:
    slow, fast = peer("slow"), peer("fast")
    balancer = Tracked(LeastConnections([slow, fast]), [slow, fast])
    stuck = exchange()
    assert balancer.next(stuck) is slow
    for _ in range(10):
        quick = exchange()
        assert balancer.next(quick) is fast
        assert quick.place is not None
        quick.place.leave(quick)
    assert (slow.load.active, fast.load.active) == (1, 0)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=5), st.integers(1, 40))
def test_each_choice_has_the_lowest_score(weights: list[int], count: int) -> None:
    peers = [peer(f"p{at}", weight) for at, weight in enumerate(weights)]
    balancer = Tracked(LeastConnections(peers), peers)
    for _ in range(count):
        scores = {each: (each.load.active + 1) / each.weight for each in peers}
        chosen = balancer.next(exchange())
        assert chosen is not None
        assert scores[chosen] <= min(scores.values()) * 1.000001


@given(st.lists(st.sampled_from(["begin", "retry", "end", "fail"]), max_size=60))
def test_every_place_is_given_back(steps: list[str]) -> None:
    peers = [peer(f"p{at}") for at in range(3)]
    balancer = Tracked(LeastConnections(peers), peers)
    open_: list[Exchange] = []
    for step in steps:
        if step == "begin" or not open_:
            open_.append(exchange())
            balancer.next(open_[-1])
        elif step == "retry":
            balancer.next(open_[0], tried=(peers[0],))
        else:
            ended = open_.pop(0)
            assert ended.place is not None
            ended.place.leave(ended)
        assert sum(each.load.active for each in peers) == len(open_)
