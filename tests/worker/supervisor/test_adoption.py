"""Who accepts for whom."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.settings import Address
from worker.scoreboard import Scoreboard
from worker.supervisor.adoption import Give, Take, adoptions
from worker.supervisor.child import Child, Slot

BOARD = Scoreboard(1)
ENTRY = BOARD.allocate(0, 1)


@pytest.fixture(scope="module")
def sock() -> Iterator[socket.socket]:
    with socket.socket() as opened:
        yield opened


def worker(sock: socket.socket, pid: int, serves: bool = True) -> Child:
    return Child(pid, 1, sock, ENTRY, 0.0, ready=serves)


def slots_of(sock: socket.socket, *serving: bool) -> list[Slot]:
    here = [(Address("127.0.0.1", 80), sock)]
    return [Slot(number, here, worker(sock, number, serves)) for number, serves in enumerate(serving)]


def test_nobody_adopts_what_is_served(sock: socket.socket) -> None:
    assert adoptions(slots_of(sock, True, True), []) == []


def test_a_slot_without_a_worker_goes_to_who_has_the_fewest(sock: socket.socket) -> None:
    slots = slots_of(sock, False, True, True, False)
    slots[1].worker.adopted.add(9)  # type: ignore[union-attr]
    one, other = adoptions(slots, [])
    assert one == Give(slots[0], slots[2].worker)  # type: ignore[arg-type]
    assert other == Give(slots[3], slots[1].worker)  # type: ignore[arg-type]


def test_it_is_taken_back_when_its_own_worker_serves(sock: socket.socket) -> None:
    slots = slots_of(sock, True, True)
    sibling = slots[1].worker
    assert sibling is not None
    sibling.adopted.add(0)
    assert adoptions(slots, []) == [Take(slots[0], sibling)]


def test_it_moves_on_when_the_adopter_no_longer_accepts(sock: socket.socket) -> None:
    slots = slots_of(sock, False, True, True)
    sibling = slots[1].worker
    assert sibling is not None
    sibling.adopted.add(0)
    sibling.draining = True
    give_own, give, take = adoptions(slots, [])[1], *adoptions(slots, [])[:2]
    assert give == Give(slots[0], slots[2].worker)  # type: ignore[arg-type]
    assert Take(slots[0], sibling) in (give_own, take)


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 5))), min_size=1, max_size=5), st.booleans())
def test_one_accepts_for_every_slot_as_long_as_anybody_serves(
    workers: list[tuple[bool, set[int]]], has_orphan: bool
) -> None:
    with socket.socket() as sock:
        slots = slots_of(sock, *(serves for serves, _ in workers))
        for slot, (_, adopted) in zip(slots, workers, strict=True):
            assert slot.worker is not None
            slot.worker.adopted |= adopted - {slot.number}
        orphans = [Slot(5, slots[0].listeners)] if has_orphan else []
        for move in adoptions(slots, orphans):
            if isinstance(move, Give):
                move.child.adopted.add(move.slot.number)
            else:
                move.child.adopted.discard(move.slot.number)
        assert adoptions(slots, orphans) == []
        for slot in (*slots, *orphans):
            adopters = [each.worker for each in slots if each.worker and slot.number in each.worker.adopted]
            if any(serves for serves, _ in workers):
                assert slot.is_served() != any(child.serves for child in adopters)
