"""The master's reports to systemd: how it is, and which sockets are to be kept."""

import logging
import os
import socket
from collections.abc import Mapping, Sequence

from worker.observability.systemd import Message, from_environment, watchdog_period
from worker.supervisor.fdstore import FdStore, Place
from worker.supervisor.inherited import Inherited
from worker.supervisor.rollouts import Rollouts
from worker.supervisor.signals import Phase
from worker.supervisor.status import Notifier, View
from worker.supervisor.workers import Workers

log = logging.getLogger("propylon.master")


def view_of(
    workers: Workers, phase: Phase, rollouts: Rollouts, until: float, is_resting: bool, silence: float, now: float
) -> View:
    """Look at the master as systemd is to see it; a worker beats that was heard of within ``silence`` seconds."""
    serving = [[child.entry for child in slot.children() if child.serves] for slot in workers.slots]
    return View(
        phase=phase,
        pid=os.getpid(),
        generation=rollouts.generation,
        slots=len(serving),
        ready=sum(1 for entries in serving if entries),
        beating=sum(any(now - entry.heartbeat_ns / 1e9 < silence for entry in entries) for entries in serving),
        revision=min((entry.revision for entries in serving for entry in entries), default=0),
        reloads=rollouts.reloads,
        failure=rollouts.failure,
        until=until,
        is_resting=is_resting,
    )


class Reporter:
    """Tells systemd what ``Notifier`` and ``FdStore`` decide, while we are what it knows as the main process."""

    def __init__(self, variables: Mapping[str, str], is_main: bool = True) -> None:
        """Report to whom the variables name that systemd has put into the environment."""
        self.watchdog = watchdog_period(variables, os.getpid())
        self.is_main = is_main
        self._socket = from_environment(variables)
        self._notifier = Notifier(self.watchdog)
        self._store = FdStore()

    def keeps(self, inherited: Sequence[Inherited]) -> None:
        """Note which of the sockets we were born with are systemd's already."""
        self._store = FdStore((each.name, each.sock) for each in inherited if each.name)
        for each in inherited:
            if each.is_activated:
                self._store.leave_out(each.sock)

    def is_activated(self, sock: socket.socket) -> bool:
        """Tell whether a socket is of a .socket unit."""
        return self._store.is_left_out(sock)

    def name(self, sock: socket.socket) -> str:
        """Return the name of a socket in systemd's store; empty when it is not there."""
        return self._store.name(sock)

    def report(self, now: float, view: View, places: Sequence[Place]) -> None:
        """Tell what has changed; ``places`` are the sockets that are to survive us."""
        lines = self._notifier.lines(now, view)
        if self.is_main and self._socket.is_wanted:
            # The sockets first: once we are ready we may be killed.
            self._socket.send([*self._store.changes(places), *map(Message, lines)])

    def due(self, now: float) -> float:
        """Return in how many seconds the next report must be made at the latest."""
        return self._notifier.due(now) if self.is_main else float("inf")

    def cede(self, pid: int) -> None:
        """Make another process the main one, and be silent from now on."""
        if self.is_main:
            self._socket.send([Message(f"MAINPID={pid}")])
        self.is_main = False

    def claim(self) -> None:
        """Be the main process."""
        self.is_main = True
        self._notifier.say_again()
        self._socket.send([Message(f"MAINPID={os.getpid()}")])
