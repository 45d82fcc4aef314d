"""Who was master before us and who is to be after us: sockets, pid file and the word to systemd change hands here."""

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence

from config_sync.settings import Settings
from worker.supervisor.fdstore import Place
from worker.supervisor.files import MASTER_STATE, UPGRADE_RESULT, PidFile, write_record
from worker.supervisor.inherited import Announced, Handover, Inherited, allot, read_handover, read_listen_fds, take
from worker.supervisor.reporting import Reporter
from worker.supervisor.upgrade import Action, Predecessor, Stage, Successor, Word, working_directory
from worker.supervisor.workers import Workers

log = logging.getLogger("propylon.master")


class Inheritance:
    """What a master finds when it begins: what its environment says, and the connection to the master before it."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        """Read what ``take_variables`` has taken out of the environment."""
        self.variables = variables
        self.directory = working_directory()
        self._handover: Handover | None = None
        self.predecessor = Predecessor(None)
        try:
            self._handover = read_handover(variables)
            self.predecessor = Predecessor(self._handover)
        except (ValueError, OSError) as error:
            log.warning("the sockets of the master before us cannot be had: %s", error)

    def revision(self, store: int) -> int:
        """Return the revision that the master before us had of a store; our workers must not begin with less."""
        handover = self._handover
        return handover.revision if handover is not None and handover.store == store else 0

    def sockets(self) -> list[Inherited]:
        """Take the listening sockets."""
        if self._handover is not None:
            return take(self._handover.listeners)
        try:
            return take(read_listen_fds(self.variables, os.getpid()))
        except ValueError as error:
            log.warning("what systemd hands over is not understood: %s", error)
            return []


class Succession:
    """The master before us and the one after us, from our point of view."""

    def __init__(self, inheritance: Inheritance, settings: Settings) -> None:
        self.predecessor = inheritance.predecessor
        self.successor = Successor()
        self.reporter = Reporter(inheritance.variables, is_main=self.predecessor.is_told)
        self.pid_file = PidFile(settings.path(settings.pid))
        self._inheritance = inheritance
        self._settings = settings
        self._record: dict[str, object] = {}

    def open(self, workers: Workers) -> None:
        """Open the listening sockets, as far as we were not born with them; raises SettingsError."""
        settings = workers.settings
        inherited = self._inheritance.sockets()
        self.reporter.keeps(inherited)
        count = settings.worker_count()
        given, unwanted = allot(inherited, [*settings.addresses(), *settings.api_addresses()], count)
        for address, sock in unwanted:
            log.warning("a socket for %s:%d, which we were given, is closed: nothing in listen names it", *address)
            sock.close()
        for _, sock in (listener for listeners in given for listener in listeners):
            sock.listen(settings.backlog)
        workers.groups.is_kept = self.reporter.is_activated
        workers.begin_with(given, settings, count)
        workers.open(settings, count)

    def descriptors(self) -> list[int]:
        """Return where the other masters are heard."""
        return [fd for fd in (self.predecessor.fileno(), self.successor.fileno()) if fd >= 0]

    def sockets(self) -> list[socket.socket]:
        """Return what a worker must not keep open."""
        return [*self.predecessor.sockets(), *self.successor.sockets()]

    @property
    def is_alone(self) -> bool:
        """Tell whether there is no other master of this gateway."""
        return not self.predecessor.is_there and self.successor.stage is Stage.NONE

    # our own life

    def record(self, ready: bool, generation: int) -> None:
        """Write who is master, for workers whose own master is dead."""
        started = self._record.get("started", time.time_ns())
        self._record = {"pid": os.getpid(), "ready": ready, "generation": generation, "started": started}
        write_record(self._settings.path(MASTER_STATE), self._record)

    def ready(self, generation: int) -> None:
        """Our workers serve: the master before us may go."""
        self.record(True, generation)
        self.predecessor.say(Word("ready"))

    def stopping(self) -> None:
        """We are told to end: the master before us is the one again, and the one that starts is not needed."""
        if self.predecessor.is_there:
            self.reporter.cede(self.predecessor.pid)
            self.predecessor.say(Word("hands back"))
        if self.successor.stage is Stage.STARTING:
            self._kill(signal.SIGTERM)

    # the other masters

    def upgrade(self, settings: Settings, places: Sequence[Place], revision: int) -> None:
        """Start the master that is to replace us; ``settings`` are those that our workers have now."""
        if self.successor.stage is not Stage.NONE or self.predecessor.is_there:
            log.warning("there are two masters already: one of them must end before the next upgrade")
            return
        log.info("upgrading: a new master is started")
        try:
            self.pid_file.set_aside()
            self.successor.start(
                self._inheritance.directory,
                self._inheritance.variables,
                [self._announced(place) for place in places],
                settings.store_identity(),
                revision,
                settings.worker_startup_timeout,
            )
        except OSError as error:
            self.successor.reason = f"it cannot be started: {error}"
            self._do(Action.GIVE_UP)

    def _announced(self, place: Place) -> Announced:
        slot, _, sock = place
        return Announced(sock.fileno(), slot, self.reporter.name(sock), self.reporter.is_activated(sock))

    def heard(self, fd: int) -> None:
        """Listen to the other master of a descriptor."""
        if fd == self.successor.fileno():
            for action in self.successor.heard():
                self._do(action)
        elif fd == self.predecessor.fileno():
            is_gone = self.predecessor.heard()
            if self.predecessor.is_told and not self.reporter.is_main:
                self.reporter.claim()
            if is_gone:
                log.info("the master before us, process %d, has ended", self.predecessor.pid)
                self.pid_file.remove_old()

    def reaped(self, pid: int, code: int) -> bool:
        """Note the end of a child; returns whether it was the master that is to replace us."""
        if pid == 0 or pid != self.successor.pid:
            return False
        for action in self.successor.ended(code):
            self._do(action)
        return True

    def look(self, now: float) -> None:
        """See whether the new master is late."""
        self._do(self.successor.look(now))

    def _do(self, action: Action) -> None:
        if action is Action.ANNOUNCE:
            log.info("the new master, process %d, is ready: both run", self.successor.pid)
            self.reporter.cede(self.successor.pid)
            self.successor.be_main()
            self._write_result(True, "")
        elif action is Action.END:
            self._kill(signal.SIGTERM)
        elif action is Action.GIVE_UP:
            log.error("the upgrade has failed, nothing has changed: %s", self.successor.reason)
            self._be_the_one()
            self._write_result(False, self.successor.reason)
        elif action is Action.TAKE_BACK:
            log.warning("the new master ends, this one goes on alone")
            self._be_the_one()

    def _be_the_one(self) -> None:
        try:
            self.pid_file.take_back()
        except OSError as error:
            log.error("the pid file cannot get its name back: %s", error)
        if not self.reporter.is_main:
            self.reporter.claim()
        if self._record:
            write_record(self._settings.path(MASTER_STATE), self._record)

    def _write_result(self, ok: bool, reason: str) -> None:
        result = {"time": time.time_ns(), "pid": self.successor.pid, "ok": ok, "reason": reason}
        write_record(self._settings.path(UPGRADE_RESULT), result)

    def _kill(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.successor.pid, number)
