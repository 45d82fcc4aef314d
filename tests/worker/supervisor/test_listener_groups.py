"""How slots and addresses are given up, with real sockets and a clock of the test's own."""

import socket
from collections.abc import Iterator

import pytest

from config_sync.settings import Address
from tests.fakes.processes import free_port, wait_until
from worker.supervisor import steering
from worker.supervisor.listener_groups import LetAddressGo, LetSlotGo, ListenerGroups, SlotClosed
from worker.supervisor.listeners import bind_missing
from worker.supervisor.messages import socket_number
from worker.supervisor.retirement import LOOK, RELEASING, SETTLING
from worker.supervisor.reuseport import is_waited_on

BACKLOG = 256


class Bench:
    """Groups with two addresses, and clients."""

    def __init__(self) -> None:
        self.addresses = [Address("127.0.0.1", free_port()) for _ in range(2)]
        self.groups = ListenerGroups()
        self.clients: list[socket.socket] = []

    def add(self, *slots: int, is_open: bool = True) -> None:
        for slot in slots:
            self.groups.add(slot, bind_missing([], self.addresses), BACKLOG, is_open)

    def connect(self, count: int, address: Address) -> None:
        for _ in range(count):
            self.clients.append(socket.create_connection(address, timeout=10))
        wait_until(lambda: any(is_waited_on(sock) for sock in self.groups.sockets()), "they are queued")

    def accept(self, *slots: int) -> int:
        """Accept what waits for these slots; returns how many that were."""
        accepted = 0
        for sock in (sock for slot in slots for sock in self.groups.of_slot(slot)):
            while is_waited_on(sock):
                sock.accept()[0].close()
                accepted += 1
        return accepted

    def close(self) -> None:
        for sock in (*self.groups.sockets(), *self.clients):
            sock.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    opened = Bench()
    yield opened
    opened.close()


def test_a_slot_is_let_go_when_nobody_waits_for_it(bench: Bench) -> None:
    groups, address = bench.groups, bench.addresses[0]
    bench.add(0, 1, 2)
    bench.connect(60, address)
    assert groups.retire_slot(1, now=0.0)
    assert groups.is_needed(1)
    bench.connect(30, address)
    assert groups.tick(SETTLING / 2) == []
    assert groups.tick(SETTLING) == []
    assert groups.due == SETTLING + LOOK
    assert 0 < bench.accept(1) < 60
    emptied = SETTLING + LOOK
    assert groups.tick(emptied) == [LetSlotGo(1)]
    assert not groups.is_needed(1)
    assert groups.tick(emptied + RELEASING) == [SlotClosed(1)]
    assert groups.of_slot(1) == []
    assert groups.due is None
    assert bench.accept(0, 2) > 30


def test_a_slot_that_is_wanted_again_keeps_its_sockets(bench: Bench) -> None:
    groups = bench.groups
    bench.add(0, 1)
    kept = groups.of_slot(1)
    groups.retire_slot(1, now=0.0)
    groups.tick(SETTLING)
    groups.revive_slot(1)
    assert groups.tick(SETTLING + RELEASING) == []
    assert groups.of_slot(1) == kept
    bench.connect(40, bench.addresses[0])
    assert bench.accept(1) == 0
    groups.open(1)
    bench.connect(60, bench.addresses[0])
    assert bench.accept(1) > 0


def test_a_slot_that_cannot_be_steered_away_from_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(steering, "steer", refuse)
    bench.add(0, 1)
    assert not bench.groups.retire_slot(1, now=0.0)
    assert bench.groups.is_needed(1)
    assert bench.groups.due is None


def test_an_address_refuses_and_is_let_go_when_nobody_waits(bench: Bench) -> None:
    groups, address = bench.groups, bench.addresses[1]
    bench.add(0, 1)
    numbers = {socket_number(groups.of_slot(slot)[1]) for slot in range(2)}
    bench.connect(20, address)
    groups.retire_address(address, now=0.0)
    assert address not in groups
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)
    assert groups.tick(SETTLING) == []
    assert len(groups.of_slot(0)) == 2  # who adopts the slot is to accept those, too
    assert bench.accept(0, 1) == 20
    emptied = SETTLING + LOOK
    (event,) = groups.tick(emptied)
    assert isinstance(event, LetAddressGo)
    assert set(event.sockets) == numbers
    assert len(groups.of_slot(0)) == 1
    assert groups.tick(emptied + RELEASING) == []
    assert len(groups.sockets()) == 2
    assert groups.due is None


def test_an_address_that_is_back_before_the_old_one_is_gone_has_sockets_of_its_own(bench: Bench) -> None:
    groups, address = bench.groups, bench.addresses[1]
    bench.add(0)
    old = socket_number(groups.of_slot(0)[1])
    groups.retire_address(address, now=0.0)
    groups.add(0, bind_missing([], [address]), BACKLOG, is_open=True)
    (event,) = [*groups.tick(SETTLING), *groups.tick(SETTLING + LOOK)]
    assert isinstance(event, LetAddressGo)
    assert event.sockets == (old,)
    bench.connect(5, address)
    groups.tick(SETTLING + LOOK + RELEASING)
    assert [socket_number(sock) for sock in groups.of_slot(0)][1:] != [old]
    assert bench.accept(0) == 5


def test_a_slot_and_an_address_go_together(bench: Bench) -> None:
    groups = bench.groups
    bench.add(0, 1)
    groups.retire_address(bench.addresses[1], now=0.0)
    groups.retire_slot(1, now=0.0)
    assert LetSlotGo(1) in groups.tick(SETTLING)
    assert groups.tick(SETTLING + RELEASING) == [SlotClosed(1)]
    assert groups.sockets() == groups.of_slot(0)
    assert len(groups.sockets()) == 1


def test_an_address_is_given_up_and_had_again_many_times(bench: Bench) -> None:
    groups, address = bench.groups, bench.addresses[1]
    bench.add(0, 1)
    for turn in range(5):
        groups.retire_address(address, now=float(turn) / 10)
        for slot in (0, 1):
            groups.add(slot, bind_missing([], [address]), BACKLOG, is_open=False)
        groups.open(1)
        bench.connect(4, address)
        assert bench.accept(1) == 4
    groups.tick(10.0)
    groups.tick(20.0)
    assert len(groups.sockets()) == 4
