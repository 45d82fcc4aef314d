"""Groups of real sockets: the order that is kept here is the kernel's, whatever comes and goes."""

import random
import socket
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from config_sync.settings import Address
from tests.fakes.processes import free_port, wait_until
from worker.supervisor import steering
from worker.supervisor.listeners import bind_listener
from worker.supervisor.reuseport import ReuseportGroup, is_waited_on

BACKLOG = 256


@pytest.fixture(params=["127.0.0.1", "::1"])
def group(request: pytest.FixtureRequest) -> Iterator[ReuseportGroup]:
    opened = ReuseportGroup(Address(request.param, free_port()))
    yield opened
    close_all(opened)


def close_all(group: ReuseportGroup) -> None:
    for sock in group.sockets():
        sock.close()


def add(group: ReuseportGroup, slots: Iterable[int], is_open: bool) -> None:
    for slot in slots:
        group.add(slot, bind_listener(group.address), BACKLOG, is_open)


def served(group: ReuseportGroup, count: int = 40) -> set[int]:
    """Open connections and accept them; returns the slots that got some."""
    clients = [socket.create_connection((group.address.host, group.address.port), timeout=10) for _ in range(count)]
    got: Counter[int] = Counter()

    def is_all_accepted() -> bool:
        for slot in group.slots:
            for sock in group.of_slot(slot):
                while is_waited_on(sock):
                    sock.accept()[0].close()
                    got[slot] += 1
        return got.total() == count

    wait_until(is_all_accepted, "all are accepted")
    for client in clients:
        client.close()
    return set(got)


def test_a_first_generation_is_open_at_once(group: ReuseportGroup) -> None:
    add(group, range(3), is_open=True)
    assert served(group, 100) == {0, 1, 2}


def test_a_slot_that_is_added_gets_nobody_before_it_is_open(group: ReuseportGroup) -> None:
    add(group, [0, 1], is_open=True)
    add(group, [2, 3], is_open=False)
    assert served(group) == {0, 1}
    group.open(3)
    assert served(group, 100) == {0, 1, 3}
    group.open(2)
    assert served(group, 150) == {0, 1, 2, 3}


def test_clients_of_a_new_address_wait_for_its_first_worker(group: ReuseportGroup) -> None:
    add(group, [0, 1, 2], is_open=False)
    assert served(group) == {0}
    group.open(2)
    assert served(group) == {2}


def test_a_slot_that_is_given_up_gets_nobody_and_can_be_closed(group: ReuseportGroup) -> None:
    add(group, range(4), is_open=True)
    assert group.steer_away(1)
    assert served(group, 100) == {0, 2, 3}
    group.close(1)
    assert group.order == [0, 3, 2]
    assert served(group, 100) == {0, 2, 3}
    assert group.steer_away(3)
    assert served(group, 60) == {0, 2}


def test_the_last_open_slot_is_not_given_up(group: ReuseportGroup) -> None:
    add(group, [0, 1], is_open=True)
    assert group.steer_away(0)
    assert not group.steer_away(1)
    assert served(group) == {1}


def test_whatever_comes_and_goes_only_open_slots_get_connections(group: ReuseportGroup) -> None:
    choice = random.Random(7)
    add(group, range(2), is_open=True)
    is_open = {0, 1}
    for _ in range(60):
        step, slot = choice.choice(["add", "open", "away", "close"]), choice.randrange(6)
        if step == "add" and slot not in group.slots:
            add(group, [slot], is_open=False)
        elif step == "open" and slot in group.slots:
            group.open(slot)
            is_open.add(slot)
        elif step == "away" and is_open - {slot}:
            assert group.steer_away(slot)
            is_open.discard(slot)
        elif step == "close" and slot not in is_open:
            group.close(slot)
        assert served(group, 12) <= is_open


def test_a_copy_elsewhere_does_not_keep_a_closed_socket_in_the_group(group: ReuseportGroup) -> None:
    add(group, range(3), is_open=True)
    with group.of_slot(0)[0].dup() as copy:
        group.steer_away(0)
        group.close(0)
        assert served(group, 60) == {1, 2}
        assert not is_waited_on(copy)


def test_a_sealed_group_refuses_and_the_address_can_be_had_again(group: ReuseportGroup) -> None:
    add(group, range(3), is_open=True)
    with socket.create_connection((group.address.host, group.address.port), timeout=10):
        wait_until(lambda: group.is_waited_on(range(3)), "it is queued")
        assert group.seal()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((group.address.host, group.address.port), timeout=10)
        assert group.is_waited_on(range(3))
        again = ReuseportGroup(group.address)
        add(again, range(2), is_open=True)
        assert served(again) == {0, 1}
        close_all(again)


class TestWithoutSteering:
    """A kernel that refuses, or inherited sockets of which the order is not known."""

    @pytest.fixture(autouse=True)
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(steering, "steer", refuse)

    def test_an_added_slot_listens_when_its_worker_does(self, group: ReuseportGroup) -> None:
        add(group, [0, 1], is_open=True)
        add(group, [2], is_open=False)
        assert served(group, 60) == {0, 1}
        group.of_slot(2)[0].listen(BACKLOG)
        group.open(2)
        assert served(group, 100) == {0, 1, 2}
        assert group.order is None

    def test_a_slot_that_is_open_is_not_given_up(self, group: ReuseportGroup, caplog: pytest.LogCaptureFixture) -> None:
        add(group, [0, 1], is_open=True)
        assert not group.steer_away(1)
        assert not group.steer_away(1)
        assert "cannot be steered: Operation not permitted" in caplog.text
        assert served(group, 60) == {0, 1}

    def test_one_that_has_not_listened_is(self, group: ReuseportGroup) -> None:
        add(group, [0], is_open=True)
        add(group, [1], is_open=False)
        assert group.steer_away(1)
        group.close(1)
        assert served(group) == {0}


def test_sockets_of_another_process_are_not_steered(group: ReuseportGroup) -> None:
    add(group, range(3), is_open=True)
    heir = ReuseportGroup(group.address)
    for slot in group.slots:
        heir.add(slot, group.of_slot(slot)[0].dup(), BACKLOG, is_open=False)
    assert not heir.steer_away(2)
    assert served(heir, 60) == {0, 1, 2}
    close_all(heir)


def test_a_single_one_can_get_company(group: ReuseportGroup) -> None:
    add(group, [0], is_open=True)
    heir = ReuseportGroup(group.address)
    heir.add(0, group.of_slot(0)[0].dup(), BACKLOG, is_open=False)
    add(heir, [1, 2], is_open=False)
    assert served(heir) == {0}
    heir.open(1)
    assert heir.steer_away(0)
    assert served(heir) == {1}
    close_all(heir)


def test_slots_that_share_a_socket_come_and_go_without_steering(group: ReuseportGroup) -> None:
    first = bind_listener(group.address)
    for slot in range(3):
        group.add(slot, first.dup(), BACKLOG, is_open=False)
    first.close()
    with socket.create_connection((group.address.host, group.address.port), timeout=10):
        assert group.steer_away(1)
        wait_until(lambda: group.is_waited_on(range(3)), "it is queued")
        assert not group.is_waited_on([1])
        group.close(1)
        assert group.slots == [0, 2]
        assert group.is_waited_on([0, 2])
        group.sockets()[0].accept()[0].close()
    assert served(group, 10) <= {0, 2}


def test_what_systemd_keeps_is_neither_sealed_nor_ended(group: ReuseportGroup) -> None:
    kept = bind_listener(group.address)
    group.add(0, kept.dup(), BACKLOG, is_open=True, is_kept=True)
    add(group, [1], is_open=True)
    assert group.seal()
    for slot in (0, 1):
        group.close(slot)
    with socket.create_connection((group.address.host, group.address.port), timeout=10):
        wait_until(lambda: is_waited_on(kept), "it waits for whom systemd starts")
    kept.close()
