"""How balancers are put together: priorities, single nodes, health."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.upstream.balancers.values import ANY, peer
from worker.upstream.balancers import build
from worker.upstream.balancers.build import BALANCERS

TYPES = sorted(BALANCERS)


@pytest.mark.parametrize("type_", TYPES)
def test_tried_peers_are_left_out(type_: str) -> None:
    peers = [peer("a"), peer("b")]
    balancer = build(type_, peers)
    assert balancer is not None
    assert balancer.next(ANY, peers[:1]) is peers[1]
    assert balancer.next(ANY, peers) is None


@pytest.mark.parametrize("type_", TYPES)
def test_lower_priorities_wait_for_the_higher_to_have_been_tried(type_: str) -> None:
    first, second, spare = peer("a", priority=1), peer("b", priority=1), peer("c")
    balancer = build(type_, [spare, first, second])
    assert balancer is not None
    assert {balancer.next(ANY) for _ in range(6)} <= {first, second}
    assert balancer.next(ANY, [first, second]) is spare


@pytest.mark.parametrize("type_", TYPES)
def test_lower_priorities_wait_for_the_higher_to_be_unhealthy(type_: str) -> None:
    first, second, spare = peer("a", priority=1), peer("b", priority=1), peer("c", priority=-1)
    balancer = build(type_, [first, second, spare])
    assert balancer is not None
    balancer.set_unhealthy([first])
    assert {balancer.next(ANY) for _ in range(6)} == {second}
    balancer.set_unhealthy([first, second])
    assert balancer.next(ANY) is spare
    balancer.set_unhealthy([spare])
    assert {balancer.next(ANY) for _ in range(20)} <= {first, second}


@pytest.mark.parametrize("type_", TYPES)
def test_when_all_are_unhealthy_all_are_used(type_: str) -> None:
    peers = [peer("a"), peer("b")]
    balancer = build(type_, peers)
    assert balancer is not None
    balancer.set_unhealthy(peers)
    chosen = balancer.next(ANY)
    assert chosen in peers
    assert balancer.next(ANY, [chosen]) not in (chosen, None)


@pytest.mark.parametrize("type_", TYPES)
def test_a_single_peer_is_used_whatever_its_weight_and_health(type_: str) -> None:
    only = peer("a", 0)
    balancer = build(type_, [only])
    assert balancer is not None
    balancer.set_unhealthy([only])
    assert balancer.next(ANY) is only
    assert balancer.next(ANY, [only]) is None


@pytest.mark.parametrize("type_", sorted({*TYPES} - {"ewma"}))
def test_a_peer_without_weight_is_used_only_when_no_other_is_healthy(type_: str) -> None:
    heavy, light = peer("a", 2), peer("b", 0)
    balancer = build(type_, [light, heavy])
    assert balancer is not None
    assert {balancer.next(ANY) for _ in range(5)} == {heavy}
    if type_ != "chash":
        balancer.set_unhealthy([heavy])
        assert balancer.next(ANY) is light


@pytest.mark.parametrize("type_", TYPES)
def test_without_any_weight_all_are_used(type_: str) -> None:
    peers = [peer("a", 0), peer("b", 0)]
    balancer = build(type_, peers)
    assert balancer is not None
    chosen = balancer.next(ANY)
    assert chosen in peers
    assert balancer.next(ANY, [chosen]) not in (chosen, None)


@pytest.mark.parametrize("type_", sorted({*TYPES} - {"ewma"}))
def test_peeking_tells_what_comes_next(type_: str) -> None:
    balancer = build(type_, [peer("a", 3), peer("b", 1), peer("c", 2)])
    assert balancer is not None
    for _ in range(20):
        assert balancer.peek(ANY) is balancer.next(ANY)


@pytest.mark.parametrize("type_", TYPES)
@given(data=st.data())
def test_no_choice_is_unhealthy_or_tried_unless_all_are(type_: str, data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 6))
    peers = [peer(f"p{at}", data.draw(st.integers(1, 4)), data.draw(st.integers(0, 2))) for at in range(count)]
    balancer = build(type_, peers, data.draw(st.integers(0, 20)))
    assert balancer is not None
    for _ in range(5):
        unhealthy = data.draw(st.sets(st.sampled_from(peers)))
        tried = tuple(data.draw(st.sets(st.sampled_from(peers))))
        balancer.set_unhealthy(unhealthy)
        allowed = {*peers} - unhealthy or {*peers}
        # A lone peer of a priority that is in use is used whatever its health.
        chosen = balancer.next(ANY, tried)
        assert (chosen is None) == (not allowed - {*tried})
        assert chosen is None or chosen in allowed - {*tried}


def test_no_peers_and_unknown_types() -> None:
    assert build("roundrobin", []) is None
    with pytest.raises(KeyError):
        build("fancy", [peer("a")])
