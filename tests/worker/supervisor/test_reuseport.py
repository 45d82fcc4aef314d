"""Groups of real sockets: the order that is kept here is the kernel's, whatever comes and goes."""

import contextlib
import random
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from config_sync.errors import SettingsError
from config_sync.settings import Address
from tests.fakes.processes import free_port, wait_until
from worker.supervisor import steering
from worker.supervisor.reuseport import ReuseportGroup, is_waited_on

BACKLOG = 256


@pytest.fixture(params=["127.0.0.1", "::1"])
def group(request: pytest.FixtureRequest) -> Iterator[ReuseportGroup]:
    opened = ReuseportGroup(Address(request.param, free_port()))
    yield opened
    opened.close_all()


def served(group: ReuseportGroup, count: int = 40) -> set[int]:
    """Open connections and accept them; returns the slots that got some."""
    clients = [socket.create_connection((group.address.host, group.address.port), timeout=10) for _ in range(count)]
    got: Counter[int] = Counter()

    def is_all_accepted() -> bool:
        for slot in group.slots:
            sock = group.of_slot(slot)
            assert sock is not None
            while is_waited_on(sock):
                sock.accept()[0].close()
                got[slot] += 1
        return got.total() == count

    wait_until(is_all_accepted, "all are accepted")
    for client in clients:
        client.close()
    return set(got)


def test_a_first_generation_is_open_at_once(group: ReuseportGroup) -> None:
    assert group.add(range(3), BACKLOG, is_open=True) == [0, 1, 2]
    assert served(group, 100) == {0, 1, 2}


def test_a_slot_that_is_added_gets_nobody_before_it_is_open(group: ReuseportGroup) -> None:
    group.add([0, 1], BACKLOG, is_open=True)
    assert group.add([0, 1, 2, 3], BACKLOG, is_open=False) == [2, 3]
    assert served(group) == {0, 1}
    group.open(3)
    assert served(group, 100) == {0, 1, 3}
    group.open(2)
    assert served(group, 150) == {0, 1, 2, 3}


def test_clients_of_a_new_address_wait_for_its_first_worker(group: ReuseportGroup) -> None:
    group.add([0, 1, 2], BACKLOG, is_open=False)
    assert served(group) == {0}
    group.open(2)
    assert served(group) == {2}


def test_a_slot_that_is_given_up_gets_nobody_and_can_be_closed(group: ReuseportGroup) -> None:
    group.add(range(4), BACKLOG, is_open=True)
    assert group.steer_away(1)
    assert served(group, 100) == {0, 2, 3}
    group.close(1)
    assert group.order == [0, 3, 2]
    assert served(group, 100) == {0, 2, 3}
    assert group.steer_away(3)
    assert served(group, 60) == {0, 2}


def test_the_last_open_slot_is_not_given_up(group: ReuseportGroup) -> None:
    group.add([0, 1], BACKLOG, is_open=True)
    assert group.steer_away(0)
    assert not group.steer_away(1)
    assert served(group) == {1}


def test_whatever_comes_and_goes_only_open_slots_get_connections(group: ReuseportGroup) -> None:
    choice = random.Random(7)
    group.add(range(2), BACKLOG, is_open=True)
    is_open = {0, 1}
    for _ in range(60):
        step, slot = choice.choice(["add", "open", "away", "close"]), choice.randrange(6)
        if step == "add":
            group.add([slot], BACKLOG, is_open=False)
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
    group.add(range(3), BACKLOG, is_open=True)
    first = group.of_slot(0)
    assert first is not None
    with first.dup() as copy:
        group.steer_away(0)
        group.close(0)
        assert served(group, 60) == {1, 2}
        assert not is_waited_on(copy)


def test_a_sealed_group_refuses_and_the_address_can_be_had_again(group: ReuseportGroup) -> None:
    group.add(range(3), BACKLOG, is_open=True)
    with socket.create_connection((group.address.host, group.address.port), timeout=10):
        wait_until(lambda: group.is_waited_on(range(3)), "it is queued")
        assert group.seal()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((group.address.host, group.address.port), timeout=10)
        assert group.is_waited_on(range(3))
        again = ReuseportGroup(group.address)
        again.add(range(2), BACKLOG, is_open=True)
        assert served(again) == {0, 1}
        again.close_all()


def test_an_address_that_is_taken_leaves_nothing_behind(group: ReuseportGroup) -> None:
    family = group.address.family
    with socket.socket(family) as taken:
        taken.bind((group.address.host, group.address.port))  # without SO_REUSEPORT, so nobody can join it
        with pytest.raises(SettingsError, match="cannot bind"):
            group.add([0, 1], BACKLOG, is_open=True)
    assert group.slots == []
    assert group.add([0, 1], BACKLOG, is_open=True) == [0, 1]


class TestWithoutSteering:
    """A kernel that refuses, or inherited sockets of which the order is not known."""

    @pytest.fixture(autouse=True)
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(steering, "steer", refuse)

    def test_an_added_slot_listens_when_its_worker_does(self, group: ReuseportGroup) -> None:
        group.add([0, 1], BACKLOG, is_open=True)
        group.add([2], BACKLOG, is_open=False)
        assert served(group, 60) == {0, 1}
        added = group.of_slot(2)
        assert added is not None
        added.listen(BACKLOG)
        group.open(2)
        assert served(group, 100) == {0, 1, 2}
        assert group.order is None

    def test_a_slot_that_is_open_is_not_given_up(self, group: ReuseportGroup, caplog: pytest.LogCaptureFixture) -> None:
        group.add([0, 1], BACKLOG, is_open=True)
        assert not group.steer_away(1)
        assert not group.steer_away(1)
        assert "cannot be steered: Operation not permitted" in caplog.text
        assert served(group, 60) == {0, 1}

    def test_one_that_has_not_listened_is(self, group: ReuseportGroup) -> None:
        group.add([0], BACKLOG, is_open=True)
        group.add([1], BACKLOG, is_open=False)
        assert group.steer_away(1)
        group.close(1)
        assert served(group) == {0}


@pytest.mark.parametrize("is_known", [True, False])
def test_sockets_of_another_process_are_steered_when_their_order_is_known(is_known: bool) -> None:
    with contextlib.ExitStack() as stack:
        former = ReuseportGroup(Address("127.0.0.1", free_port()))
        stack.callback(former.close_all)
        former.add(range(3), BACKLOG, is_open=True)
        former.steer_away(0)
        former.close(0)
        group = ReuseportGroup(former.address)
        stack.callback(group.close_all)
        copies = {slot: sock.dup() for slot in former.slots if (sock := former.of_slot(slot)) is not None}
        group.inherit(copies, former.order if is_known else None)
        assert group.steer_away(2) is is_known
        assert served(group, 60) == ({1} if is_known else {1, 2})
