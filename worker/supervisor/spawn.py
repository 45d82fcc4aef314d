"""Forking a worker, and becoming one in the child of the fork.

The child imports what serves requests only then, so a reload brings new code.
"""

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable

from config_sync.settings import Settings
from worker.scoreboard import Entry
from worker.supervisor.child import Child
from worker.supervisor.listeners import Listeners
from worker.supervisor.signals import HANDLED

log = logging.getLogger("propylon.master")

WorkerMain = Callable[[Settings, int, Child, Listeners, int], int]


def serve(settings: Settings, slot: int, child: Child, listeners: Listeners, minimum_revision: int) -> int:
    """Be a worker: import what serves requests, and run it."""
    from worker.process import WorkerBoot, run_worker

    control = settings.control_address()
    sockets = [sock for address, sock in listeners if address != control]
    api_sockets = [sock for address, sock in listeners if address == control]
    return run_worker(
        WorkerBoot(
            settings,
            slot,
            child.generation,
            sockets,
            api_sockets,
            child.control,
            child.entry,
            minimum_revision,
            os.getppid(),
        )
    )


def fork_worker(
    entry: Entry,
    settings: Settings,
    listeners: Listeners,
    minimum_revision: int,
    foreign: Callable[[], Iterable[socket.socket]],
    worker_main: WorkerMain,
) -> Child:
    """Fork a worker for a new entry of the scoreboard; ``foreign`` are the sockets that it closes.

    Raises:
        OSError: there are too many processes or descriptors, or too little memory.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        ours.close()
        me = Child(os.getpid(), entry.generation, theirs, entry, time.monotonic())
        _become_worker(settings, me, listeners, minimum_revision, foreign, worker_main)
    theirs.close()
    entry.pid = pid
    return Child(pid, entry.generation, ours, entry, time.monotonic())


def _become_worker(
    settings: Settings,
    me: Child,
    listeners: Listeners,
    minimum_revision: int,
    foreign: Callable[[], Iterable[socket.socket]],
    worker_main: WorkerMain,
) -> None:
    """Turn this child of the fork into a worker; does not return."""
    code = 1
    at = me.entry.slot
    try:
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        # Ctrl-C and a HUP to the whole group are the master's to deal with.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        # A second copy of another worker's socket would keep its end from being noticed.
        for sock in foreign():
            sock.close()
        code = worker_main(settings, at, me, listeners, minimum_revision)
    except BaseException:
        log.exception("worker %d has failed", at)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
