"""The process that workers are forked from, with real forks; this process is the master."""

import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config_sync.settings import Address, Settings
from tests.fakes.processes import is_template, wait_until
from worker.scoreboard import Scoreboard
from worker.supervisor import template
from worker.supervisor.child import Child
from worker.supervisor.listeners import Listeners
from worker.supervisor.template import PR_SET_CHILD_SUBREAPER, PROBATION, Templates

SETTINGS = Settings()


def tell(settings: Settings, slot: int, child: Child, listeners: Listeners, minimum_revision: int) -> int:
    """Be a worker that says who it is, and ends when it is told to."""
    names = " ".join(f"{address}={sock.getsockname()[1]}" for address, sock in listeners)
    said = f"{os.getppid()} {slot} {child.generation} {minimum_revision} {names}"
    child.control.send(said.encode())
    child.control.recv(1)
    return 7


class Bench:
    """A master's templates and scoreboard."""

    def __init__(self, prepare: Callable[[], None] = lambda: None) -> None:
        self.board = Scoreboard()
        self.templates = Templates(self.board, list, tell, prepare)
        self.workers: list[Child] = []

    def keep(self, generation: int = 1, now: float = 0.0) -> None:
        self.templates.keep(generation, SETTINGS, now)
        self.templates.keep(generation, SETTINGS, now + PROBATION)

    def fork(self, generation: int = 1, listeners: Listeners | None = None) -> Child | None:
        """Ask for a worker; None when there is no template for it."""
        entry = self.board.allocate(3, generation)
        return self.templates.fork(entry, SETTINGS, listeners or [], 42)

    def fork_when_ready(self, listeners: Listeners | None = None) -> Child:
        found: list[Child] = []

        def has_forked() -> bool:
            child = self.fork(1, listeners)
            if child is not None:
                found.append(child)
            return bool(found)

        wait_until(has_forked, "a worker")
        self.workers += found
        return found[0]

    def close(self) -> None:
        """End everybody, and be no parent of strangers any more."""
        self.templates.drop()
        for child in self.workers:
            child.control.close()
        with contextlib.suppress(ChildProcessError):
            while True:
                reap()
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def reap() -> tuple[int, int]:
    pid, status = os.waitpid(-1, 0)
    return pid, os.waitstatus_to_exitcode(status)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(template, "PATIENCE", 20.0)
    with contextlib.closing(Bench()) as made:
        yield made


def test_workers_of_a_template_are_children_of_the_master(bench: Bench) -> None:
    bench.keep()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        child = bench.fork_when_ready([(Address("127.0.0.1", port), server)])
    child.control.settimeout(10)
    assert child.control.recv(200).decode() == f"{os.getpid()} 3 1 42 127.0.0.1:{port}={port}"
    assert child.entry.pid == child.pid
    assert not is_template(child.pid)
    child.control.send(b".")
    assert reap() == (child.pid, 7)


def test_there_is_none_for_another_generation(bench: Bench) -> None:
    bench.keep()
    bench.fork_when_ready()
    assert bench.fork(generation=2) is None
    bench.keep(generation=2)
    assert bench.fork(generation=1) is None


def test_one_that_does_not_answer_is_given_up_and_replaced_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.keep()
    bench.fork_when_ready()
    monkeypatch.setattr(template, "PATIENCE", 0.1)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    os.kill(next(pid for pid in map(int, children) if is_template(pid)), signal.SIGSTOP)
    assert bench.fork() is None
    bench.keep(now=2.0)
    assert bench.fork() is None
    monkeypatch.setattr(template, "PATIENCE", 20.0)
    bench.keep(now=100.0)
    bench.fork_when_ready()


def test_one_that_cannot_import_its_code_is_not_tried_again_for_that_generation() -> None:
    def broken() -> None:
        raise ImportError("nothing of that name")

    with contextlib.closing(Bench(broken)) as bench:
        bench.keep()
        pid, code = reap()
        assert code == 1
        assert bench.templates.reaped(pid)
        bench.keep(now=100.0)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        bench.keep(generation=2, now=100.0)
        assert bench.templates.reaped(reap()[0])
