"""Slots and addresses come and go while clients connect all the time: nobody who was let in goes without an answer."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import ROOT, Etcd, Gateway, free_port, read_response, wait_until

BACKLOG = 233  # as nobody else has

MASTER_WITHOUT_STEERING = f"""
import sys
sys.path[0] = {str(ROOT)!r}
from worker.supervisor import steering
def refuse(*_):
    raise PermissionError(1, "Operation not permitted")
steering.steer = refuse
from master import main
sys.exit(main())
"""


class Newcomers:
    """Clients that connect anew for each request, and count how it went."""

    def __init__(self, port: int, clients: int = 3) -> None:
        self.outcomes: Counter[str] = Counter()
        self.last = ""
        self._port = port
        self._asking: dict[int, float] = {}
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Newcomers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self) -> int:
        return self.outcomes["404"]

    def waiting(self) -> list[float]:
        """Return since when those clients ask who have not had an answer for a second."""
        now = time.monotonic()
        return [since for since in list(self._asking.values()) if now - since > 1]

    def _ask(self) -> None:
        me = threading.get_ident()
        while not self._is_over.is_set():
            self._asking[me] = time.monotonic()
            self.last = self._ask_once()
            self._asking.pop(me)
            self.outcomes[self.last] += 1
            self._is_over.wait(0.005)

    def _ask_once(self) -> str:
        try:
            sock = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        except ConnectionRefusedError:
            return "refused"
        except OSError as error:
            return f"not connected: {error!r}"
        with sock:
            try:
                sock.sendall(b"GET /nowhere HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                return str(read_response(sock)[0])
            except OSError as error:
                return repr(error)


def sockets_of(port: int) -> list[str]:
    """Return the backlogs of the sockets that listen on a port."""
    listed = subprocess.run(
        ["ss", "-Hltn", f"sport = :{port}"], capture_output=True, text=True, timeout=20, check=True
    ).stdout
    return [line.split()[2] for line in listed.splitlines()]


@pytest.fixture(params=["steered", "adopted"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path, etcd: Etcd) -> Iterator[Gateway]:
    """A gateway with three workers and without routes; it can steer connections, or cannot."""
    running = Gateway(tmp_path, etcd.url, worker_processes=3, backlog=BACKLOG)
    if request.param == "steered":
        running.launch()
    else:
        (tmp_path / "master.py").write_text(MASTER_WITHOUT_STEERING)
        running.launch_from(tmp_path)
    running.await_ready()
    yield running
    running.kill()


def resized(gateway: Gateway, count: int) -> int:
    """Return how often the master has said that it has so many workers."""
    return gateway.log().count(f"{count} workers serve")


def test_workers_more_and_fewer(gateway: Gateway) -> None:
    is_steered = not (gateway.directory / "master.py").exists()
    with Newcomers(gateway.port) as clients:
        for turn in (1, 2):
            for number, count in ((signal.SIGTTIN, 4), (signal.SIGTTOU, 3)):
                gateway.signal(number)
                wait_until(lambda count=count, turn=turn: resized(gateway, count) == turn, f"{count} workers")  # type: ignore[misc]
                answered = clients.answered
                wait_until(lambda answered=answered: clients.answered > answered + 100, "clients are served")  # type: ignore[misc]
        listening = 3 if is_steered else 4
        wait_until(lambda: len(sockets_of(gateway.port)) == listening, "the sockets of the slot are closed, or kept")
        wait_until(lambda: len(gateway.workers()) == 3, "its workers have ended")
    assert set(clients.outcomes) == {"404"}
    assert set(sockets_of(gateway.port)) == {str(BACKLOG)}
    assert ("cannot be steered" in gateway.log()) is not is_steered


def test_a_reload_with_more_and_fewer(gateway: Gateway) -> None:
    with Newcomers(gateway.port) as clients:
        for count in (4, 2):
            gateway.write_conf(worker_processes=count)
            done = gateway.command("-s", "reload")
            assert done.returncode == 0, done.stderr
            answered = clients.answered
            wait_until(lambda answered=answered: clients.answered > answered + 100, "clients are served")  # type: ignore[misc]
    assert set(clients.outcomes) == {"404"}
    assert set(sockets_of(gateway.port)) == {str(BACKLOG)}


def test_an_address_comes_and_goes(gateway: Gateway) -> None:
    port = free_port()
    both = [f"127.0.0.1:{gateway.port}", f"127.0.0.1:{port}"]
    with Newcomers(gateway.port, 1) as others, Newcomers(port, 2) as clients:
        gateway.write_conf(listen=both)
        assert gateway.command("-s", "reload").returncode == 0
        wait_until(lambda: clients.answered > 100, "clients are served")
        gateway.write_conf(listen=both[:1])
        assert gateway.command("-s", "reload").returncode == 0
        wait_until(lambda: clients.last == "refused", "clients are refused")
        wait_until(lambda: sockets_of(port) == [], "its sockets are closed")
        assert clients.last == "refused"
    assert set(clients.outcomes) == {"404", "refused"}
    assert set(others.outcomes) == {"404"}


def test_who_waits_for_a_dead_worker_is_served_by_another(gateway: Gateway) -> None:
    victims = sorted(gateway.workers())[:2]
    with Newcomers(gateway.port) as clients:
        wait_until(lambda: clients.answered > 50, "clients are served")
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)  # so that clients wait in the queues
        wait_until(lambda: len(clients.waiting()) == 3, "all wait")
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        answered = clients.answered
        wait_until(lambda: clients.answered > answered + 100, "clients are served")
        wait_until(lambda: gateway.log().count("is ready at revision") == 5, "there are new workers")
    lost = clients.outcomes.total() - clients.answered
    assert lost <= 2  # that the dead had accepted, and not answered when they were stopped
    assert set(sockets_of(gateway.port)) == {str(BACKLOG)}


def test_the_backlog_is_that_of_the_settings(gateway: Gateway) -> None:
    assert sockets_of(gateway.port) == [str(BACKLOG)] * 3
    assert sockets_of(gateway.control_port) == [str(BACKLOG)]
    gateway.write_conf(backlog=BACKLOG + 1)
    assert gateway.command("-s", "reload").returncode == 0
    assert sockets_of(gateway.port) == [str(BACKLOG + 1)] * 3
    wait_until(lambda: sockets_of(gateway.control_port) == [str(BACKLOG + 1)], "the control address, too")
