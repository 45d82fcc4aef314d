"""Forking, and becoming a worker in the child of the fork.

The child imports what serves requests only then, so a reload brings new code.
"""

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import NoReturn

import worker.supervisor.preimport  # noqa: F401 - for its effect on the children
from config_sync.settings import Settings
from worker.scoreboard import Entry
from worker.supervisor.child import Child
from worker.supervisor.listeners import Listeners
from worker.supervisor.signals import HANDLED

log = logging.getLogger("propylon.master")

WorkerMain = Callable[[Settings, int, Child, Listeners, int], int]
Sockets = Callable[[], Iterable[socket.socket]]


def serve(settings: Settings, slot: int, child: Child, listeners: Listeners, minimum_revision: int) -> int:
    """Be a worker: import what serves requests, and run it."""
    from worker.process import WorkerBoot, run_worker

    own = settings.api_addresses()
    sockets = [sock for address, sock in listeners if address not in own]
    api_sockets = [sock for address, sock in listeners if address == settings.control_address()]
    metrics_sockets = [sock for address, sock in listeners if address == settings.metrics_address()]
    return run_worker(
        WorkerBoot(
            settings,
            slot,
            child.generation,
            sockets,
            api_sockets,
            metrics_sockets,
            child.control,
            child.entry,
            minimum_revision,
            os.getppid(),
        )
    )


def import_worker() -> None:
    """Import what ``serve`` needs, whatever the settings."""
    for name in ("worker.process", "config_sync.etcd.sync", "config_sync.file", "config_sync.relay.provider"):
        importlib.import_module(name)
    from worker.plugins.loading import import_built_in

    import_built_in()


def fork_worker(
    entry: Entry,
    settings: Settings,
    listeners: Listeners,
    minimum_revision: int,
    foreign: Sockets,
    worker_main: WorkerMain,
) -> Child:
    """Fork a worker for a new entry of the scoreboard; ``foreign`` are the sockets that it closes.

    Raises:
        OSError: there are too many processes or descriptors, or too little memory.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def live() -> int:
        ours.close()
        me = Child(os.getpid(), entry.generation, theirs, entry, time.monotonic())
        return worker_main(settings, entry.slot, me, listeners, minimum_revision)

    try:
        pid = fork_child(f"worker {entry.slot}", live, foreign)
    except OSError:
        ours.close()
        theirs.close()
        raise
    theirs.close()
    entry.pid = pid
    return Child(pid, entry.generation, ours, entry, time.monotonic())


def fork_child(name: str, live: Callable[[], int], foreign: Sockets) -> int:
    """Fork a process that is no master any more, calls ``live`` and exits with its result; returns the pid.

    Raises:
        OSError: there are too many processes, or too little memory.
    """
    pid = os.fork()
    if pid == 0:
        _become_child(name, live, foreign)
    return pid


def _become_child(name: str, live: Callable[[], int], foreign: Sockets) -> None:
    """Be the child of the fork; does not return."""

    def begin() -> int:
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        # Ctrl-C and a HUP to the whole group are the master's to deal with.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # A second copy of another worker's socket would keep its end from being noticed.
        for sock in foreign():
            sock.close()
        return live()

    end_as(name, begin)


def end_as(name: str, live: Callable[[], int]) -> NoReturn:
    """Call ``live`` and exit with its result: a child that went on would be a second master, whatever happens."""
    code = 1
    try:
        code = live()
    except BaseException:
        log.exception("%s has failed", name)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)
