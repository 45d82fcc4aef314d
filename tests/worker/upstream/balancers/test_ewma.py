"""The quicker of two, and how averages are made and forgotten."""

from collections import Counter
from math import exp, isclose

from tests.worker.upstream.balancers.values import ANY, exchange, peer
from worker.errors import PeerClosed
from worker.upstream.balancers.ewma import Ewma
from worker.upstream.balancers.tracked import Tracked
from worker.upstream.load import Load


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_slower_of_two_is_never_taken() -> None:
    clock = Clock()
    peers = [peer("slow"), peer("fast")]
    peers[0].load.sample(0.5, clock())
    peers[1].load.sample(0.1, clock())
    balancer = Ewma(peers, clock)
    assert {balancer.next(ANY) for _ in range(50)} == {peers[1]}


def test_the_slowest_of_many_is_never_taken_and_all_others_are() -> None:
    clock = Clock()
    peers = [peer(f"p{at}") for at in range(5)]
    peers[0].load.sample(0.5, clock())
    balancer = Ewma(peers, clock)
    shares = Counter(balancer.next(ANY) for _ in range(2000))
    assert {*shares} == {*peers[1:]}


def test_samples_decay() -> None:
    load = Load()
    load.sample(0.4, 1000.0)
    assert isclose(load.score(1000.0), 0.4)
    assert isclose(load.score(1010.0), 0.4 * exp(-1))
    load.sample(0.8, 1005.0)
    assert isclose(load.average, 0.4 * exp(-0.5) + 0.8 * (1 - exp(-0.5)))


def test_what_is_old_is_forgotten() -> None:
    load = Load()
    load.sample(5.0, 1000.0)
    assert load.score(1061.0) == 0.0
    load.sample(0.2, 1061.0)
    assert load.score(1061.0) == 0.2


def test_answers_are_samples_and_failures_are_not() -> None:
    clock = Clock()
    peers = [peer("a"), peer("b")]
    balancer = Tracked(Ewma(peers, clock), peers, clock)
    good, bad = exchange(), exchange()
    chosen = balancer.next(good)
    assert chosen is not None
    assert good.place is not None
    clock.now += 0.25
    good.place.leave(good)
    assert chosen.load.average == 0.25
    failed = balancer.next(bad)
    assert failed not in (None, chosen)  # the other has no average yet
    bad.error = PeerClosed()
    clock.now += 3
    assert bad.place is not None
    bad.place.leave(bad)
    assert failed is not None
    assert (failed.load.average, failed.load.active) == (0.0, 0)
