"""Who accepts from which sockets, with real sockets; workers are the other ends of socketpairs."""

import itertools
import os
import socket
from collections.abc import Iterator

import pytest
from worker.supervisor.sockets import Sockets

from config_sync.errors import SettingsError
from config_sync.settings import ControlSettings, Settings
from tests.fakes.processes import free_port, wait_until
from worker.scoreboard import Scoreboard
from worker.supervisor import steering
from worker.supervisor.child import Child
from worker.supervisor.messages import Adopt, Release, ToMaster, ToWorker, receive_from_master
from worker.supervisor.retirement import LONGEST_EMPTYING, RELEASING, SETTLING
from worker.supervisor.reuseport import is_waited_on


class Worker:
    """The far end of a child's socketpair."""

    pids = itertools.count(1_000_000)

    def __init__(self, board: Scoreboard, slot: int) -> None:
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.child = Child(next(self.pids), 1, ours, board.allocate(slot, 1), 0.0)
        self.adopted: dict[int, list[socket.socket]] = {}

    def told(self) -> list[ToWorker | ToMaster | None]:
        """Return what it has been told since the last time."""
        messages = []
        while True:
            try:
                packet = receive_from_master(self._theirs)
            except BlockingIOError:
                return messages
            assert packet is not None
            messages.append(packet.message)
            if isinstance(packet.message, Adopt):
                self.adopted[packet.message.slot] = [socket.socket(fileno=fd) for fd in packet.descriptors]

    def close(self) -> None:
        self.child.control.close()
        self._theirs.close()
        for sock in itertools.chain.from_iterable(self.adopted.values()):
            sock.close()


class Bench:
    """Sockets under test, with settings of one address, a clock, and workers."""

    def __init__(self) -> None:
        self.port, self.control_port = free_port(), free_port()
        self.settings = self.listening(self.port)
        self.drained: list[Child] = []
        self.sockets = Sockets(self.drained.append)
        self.now = 0.0
        self._board = Scoreboard()
        self._workers: list[Worker] = []

    def listening(self, *ports: int) -> Settings:
        return Settings(
            listen=tuple(f"127.0.0.1:{port}" for port in ports),
            control=ControlSettings(listen=f"127.0.0.1:{self.control_port}"),
        )

    def worker(self, slot: int) -> Worker:
        """Let a slot have a worker that is ready."""
        worker = Worker(self._board, slot)
        self._workers.append(worker)
        self.sockets.ready(slot, worker.child)
        return worker

    def start(self, count: int) -> list[Worker]:
        self.sockets.start(self.settings, range(count))
        return [self.worker(slot) for slot in range(count)]

    def own(self, slot: int) -> list[socket.socket]:
        control = self.settings.control_address()
        return [sock for address, sock in self.sockets.of_slot(slot, self.settings) if address != control]

    def accept(self, slot: int) -> int:
        """Accept what is queued for a slot."""
        accepted = 0
        for sock in self.own(slot):
            while is_waited_on(sock):
                sock.accept()[0].close()
                accepted += 1
        return accepted

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.sockets.tick(self.now)

    def connect(self, count: int, port: int = 0) -> list[socket.socket]:
        clients = [socket.create_connection(("127.0.0.1", port or self.port), timeout=10) for _ in range(count)]
        wait_until(lambda: [sock for sock in self.sockets.all() if is_waited_on(sock)], "they are queued")
        return clients

    def close(self) -> None:
        self.sockets.close()
        for worker in self._workers:
            worker.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    opened = Bench()
    yield opened
    opened.close()


@pytest.fixture
def unsteerable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(steering, "steer", refuse)


def close(clients: list[socket.socket]) -> None:
    for client in clients:
        client.close()


def test_a_worker_is_born_with_the_sockets_of_its_slot_and_the_control_address(bench: Bench) -> None:
    bench.start(2)
    first, second = (bench.sockets.of_slot(slot, bench.settings) for slot in range(2))
    assert [address.port for address, _ in first] == [bench.port, bench.control_port]
    assert first[0][1] is not second[0][1]
    assert first[1][1] is second[1][1]
    assert len(bench.sockets.all()) == 3


def test_an_address_that_is_taken_changes_nothing(bench: Bench) -> None:
    bench.start(2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(SettingsError, match="cannot bind"):
            bench.sockets.prepare(bench.listening(free_port(), taken.getsockname()[1]), range(3))
    assert len(bench.sockets.all()) == 3
    assert [len(bench.own(slot)) for slot in range(3)] == [1, 1, 0]


def test_a_control_address_that_is_taken_is_said_so(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", bench.control_port))
        taken.listen()
        with pytest.raises(SettingsError, match=r'control.listen: cannot bind .* or "" for none'):
            bench.sockets.start(bench.settings, range(2))
    assert bench.sockets.all() == []


def test_a_slot_that_has_lost_its_worker_is_adopted_and_given_back(bench: Bench) -> None:
    workers = bench.start(3)
    bench.sockets.lost(workers[1].child)
    name = f"127.0.0.1:{bench.port}"
    assert workers[0].told() == [Adopt(1, (name,))]
    assert workers[0].adopted[1][0].getsockname()[1] == bench.port
    assert os.fstat(workers[0].adopted[1][0].fileno()).st_ino == os.fstat(bench.own(1)[0].fileno()).st_ino
    bench.sockets.lost(workers[0].child)
    assert workers[2].told() == [Adopt(1, (name,)), Adopt(0, (name,))]
    bench.worker(1)
    assert workers[2].told() == [Release(1)]


def test_a_retired_slot_lets_its_worker_accept_what_is_queued(bench: Bench) -> None:
    workers = bench.start(3)
    clients = bench.connect(60)
    bench.sockets.retire(2, bench.now)
    clients += bench.connect(30)
    bench.pass_time(SETTLING)
    assert bench.drained == []
    assert bench.accept(2) < 60
    bench.pass_time(0.1)
    assert bench.drained == [workers[2].child]
    bench.pass_time(RELEASING)
    assert bench.own(2) == []
    assert bench.sockets.due is None
    assert sum(bench.accept(slot) for slot in range(2)) > 30
    close(clients)


def test_a_retired_slot_whose_worker_dies_is_emptied_by_another(bench: Bench) -> None:
    workers = bench.start(2)
    clients = bench.connect(40)
    bench.sockets.retire(1, bench.now)
    bench.sockets.lost(workers[1].child)
    assert [type(message) for message in workers[0].told()] == [Adopt]
    bench.pass_time(SETTLING)
    assert workers[0].told() == []
    bench.accept(1)
    bench.pass_time(0.1)
    assert workers[0].told() == [Release(1)]
    assert bench.drained == []
    bench.pass_time(RELEASING)
    assert bench.own(1) == []
    close(clients)


def test_a_slot_that_is_wanted_again_keeps_its_sockets_and_its_worker_until_there_is_another(bench: Bench) -> None:
    workers = bench.start(2)
    kept = bench.own(1)
    bench.sockets.retire(1, bench.now)
    bench.sockets.prepare(bench.settings, range(2))
    bench.pass_time(SETTLING + RELEASING)
    assert bench.own(1) == kept
    assert bench.drained == []
    bench.worker(1)
    assert bench.drained == [workers[1].child]
    close(bench.connect(100))
    assert bench.accept(1) > 0


def test_a_slot_that_never_had_a_worker_is_retired(bench: Bench) -> None:
    bench.start(2)
    bench.sockets.prepare(bench.settings, range(3))
    close(bench.connect(60))
    assert bench.accept(2) == 0
    bench.sockets.retire(2, bench.now)
    bench.pass_time(SETTLING)
    bench.pass_time(RELEASING)
    assert bench.own(2) == []
    assert bench.drained == []


@pytest.mark.usefixtures("unsteerable")
def test_without_steering_the_sockets_of_a_retired_slot_are_adopted_until_it_is_back(bench: Bench) -> None:
    workers = bench.start(2)
    bench.sockets.retire(1, bench.now)
    assert [type(message) for message in workers[0].told()] == [Adopt]
    assert bench.drained == [workers[1].child]
    bench.sockets.lost(workers[1].child)
    bench.pass_time(SETTLING + RELEASING)
    clients = bench.connect(60)
    assert bench.accept(1) > 0
    close(clients)
    kept = bench.own(1)
    bench.sockets.prepare(bench.settings, range(2))
    assert bench.own(1) == kept
    bench.worker(1)
    assert workers[0].told() == [Release(1)]


def test_an_address_that_is_given_up_refuses_and_what_is_queued_is_accepted(bench: Bench) -> None:
    workers = bench.start(2)
    port = free_port()
    added = bench.listening(bench.port, port)
    bench.sockets.prepare(added, range(2))
    workers += [bench.worker(slot) for slot in range(2)]
    bench.settings = added
    bench.sockets.keep(added, bench.now)
    assert bench.sockets.due is None
    old = [bench.own(slot)[1] for slot in range(2)]
    clients = bench.connect(20, port)
    bench.sockets.keep(bench.listening(bench.port), bench.now)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)
    bench.pass_time(SETTLING)
    assert workers[2].told() == []
    assert sum(accept_all(sock) for sock in old) == 20
    bench.pass_time(0.1)
    assert [worker.told() for worker in workers[2:]] == [[Release(slot, (f"127.0.0.1:{port}",))] for slot in range(2)]
    bench.pass_time(RELEASING)
    assert len(bench.sockets.all()) == 3
    close(clients)


def accept_all(sock: socket.socket) -> int:
    accepted = 0
    while is_waited_on(sock):
        sock.accept()[0].close()
        accepted += 1
    return accepted


def test_an_address_can_be_given_up_and_be_had_again_at_once(bench: Bench) -> None:
    bench.start(2)
    port = free_port()
    for _ in range(3):
        bench.sockets.prepare(bench.listening(bench.port, port), range(2))
        bench.worker(0)
        clients = bench.connect(3, port)
        accepted = [accept_all(sock) for _, sock in bench.sockets.of_slot(0, bench.settings)]
        assert sum(accepted) == 3
        close(clients)
        bench.sockets.keep(bench.settings, bench.now)
    bench.pass_time(SETTLING)
    bench.pass_time(RELEASING)
    assert len(bench.sockets.all()) == 3


def test_clients_of_a_reload_that_has_failed_are_not_waited_for_without_end(bench: Bench) -> None:
    bench.start(2)
    port = free_port()
    bench.sockets.prepare(bench.listening(bench.port, port), range(2))
    clients = bench.connect(3, port)
    bench.sockets.keep(bench.settings, bench.now)
    bench.pass_time(SETTLING)
    assert len(bench.sockets.all()) == 5
    bench.pass_time(LONGEST_EMPTYING)
    bench.pass_time(RELEASING)
    assert len(bench.sockets.all()) == 3
    close(clients)


def test_another_control_address_takes_the_place_of_the_first(bench: Bench) -> None:
    bench.start(1)
    bench.control_port = free_port()
    other = bench.listening(bench.port)
    bench.sockets.prepare(other, range(1))
    assert bench.sockets.of_slot(0, other)[-1][0].port == bench.control_port
    bench.sockets.keep(other, bench.now)
    assert len(bench.sockets.all()) == 2
