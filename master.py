"""The master: forks workers, keeps their number, re-forks them on SIGHUP, and stops them.

It owns one SO_REUSEPORT listening socket for every worker slot and address, for its whole life. A worker is
born with the sockets of its slot and its successor with the same, so connections that wait in an accept queue
are never lost. The master has one thread and no event loop, and imports nothing of what serves requests; a
worker imports that after the fork, so a reload brings new code too.

``plan`` decides what a signal means in each phase; ``Master`` does it:

    STARTING ──► RUNNING ◄──► RELOADING
        └──────────┴────────────┴──────► STOPPING

A reload forks a complete new generation beside the old one. When all of it has reported to be ready, the old one
is told to drain; when one of it fails, all of it is ended, and the old one stays.
"""

import argparse
import contextlib
import grp
import json
import logging
import os
import pwd
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from config_sync.errors import SettingsError
from config_sync.settings import Address, Settings, load_settings
from worker.listener import Listeners, check_nobody_listens, close_listeners, open_missing, share_out
from worker.observability.logs import ErrorLog
from worker.observability.systemd import notify
from worker.scoreboard import Entry, Scoreboard

log = logging.getLogger("propylon.master")

TICK = 1.0  # seconds between two looks at the clock
QUICK_DEATH = 10.0  # a worker that dies younger is not re-forked at once a second time
LONGEST_DELAY = 30.0
KILL_AFTER = 5.0  # a fast stop gives workers this long
RELOAD_RESULT = "reload.json"
FIXED = ("runtime_dir", "pid", "user")  # settings: the files of those who run already depend on them
MAX_WORKERS = 1_024
EXIT_SETTINGS = 78  # what a worker ends with when its settings are of no use (EX_CONFIG)


class Phase(Enum):
    """What the master is doing."""

    STARTING = "starting"
    RUNNING = "running"
    RELOADING = "reloading"
    STOPPING = "stopping"


class Command(Enum):
    """What it is to do."""

    RELOAD = "reload"
    RELOAD_AGAIN = "reload again when this one is over"
    DRAIN = "drain all workers and exit"
    TERMINATE = "end all workers and exit"
    REOPEN_LOGS = "reopen logs"
    GROW = "one worker more"
    SHRINK = "one worker less"
    IGNORE = "nothing"


_ALWAYS = {
    signal.SIGQUIT: Command.DRAIN,
    signal.SIGTERM: Command.TERMINATE,
    signal.SIGINT: Command.TERMINATE,
    signal.SIGUSR1: Command.REOPEN_LOGS,
}
PLAN: dict[Phase, dict[signal.Signals, Command]] = {
    Phase.STARTING: {**_ALWAYS, signal.SIGHUP: Command.RELOAD_AGAIN},
    Phase.RUNNING: {
        **_ALWAYS,
        signal.SIGHUP: Command.RELOAD,
        signal.SIGTTIN: Command.GROW,
        signal.SIGTTOU: Command.SHRINK,
    },
    Phase.RELOADING: {**_ALWAYS, signal.SIGHUP: Command.RELOAD_AGAIN},
    Phase.STOPPING: {**_ALWAYS, signal.SIGQUIT: Command.IGNORE},
}
HANDLED = (*_ALWAYS, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD)


def plan(phase: Phase, received: signal.Signals) -> Command:
    """Decide what a signal means."""
    return PLAN[phase].get(received, Command.IGNORE)


def respawn_delay(failures: int) -> float:
    """Return how long to wait, in seconds, before a slot is filled again that has failed so often in a row."""
    return 0.0 if failures <= 1 else float(min(LONGEST_DELAY, 0.1 * 2 ** min(failures, 12)))


@dataclass
class Child:
    """A worker as the master sees it."""

    pid: int
    generation: int
    control: socket.socket
    entry: Entry
    born: float
    ready: bool = False
    silent: bool = False  # it has closed its end; SIGCHLD tells the rest


@dataclass
class Slot:
    """A place for a worker, with its listening sockets."""

    listeners: Listeners
    worker: Child | None = None
    retired: list[Child] = field(default_factory=list)  # told to drain
    failures: int = 0  # quick deaths in a row
    respawn_at: float | None = None

    def children(self) -> list[Child]:
        """Return everyone who lives here."""
        return [*([self.worker] if self.worker is not None else []), *self.retired]


@dataclass
class Upcoming:
    """A generation being brought up beside the one that serves."""

    settings: Settings
    until: float  # ready by then, or never
    listeners: list[Listeners]  # of each slot, those opened for it and those that stay
    opened: list[Listeners]
    workers: list[Child] = field(default_factory=list)


def serve(settings: Settings, slot: int, child: Child, listeners: Listeners, minimum_revision: int) -> int:
    """Be a worker: import what serves requests, and run it."""
    from worker.process import WorkerBoot, run_worker

    control = settings.control_address()
    sockets = [sock for address, sock in listeners if address != control]
    api_sockets = [sock for address, sock in listeners if address == control]
    return run_worker(
        WorkerBoot(settings, slot, child.generation, sockets, api_sockets, child.control, child.entry, minimum_revision)
    )


WorkerMain = Callable[[Settings, int, Child, Listeners, int], int]


class Master:
    """The supervising process."""

    def __init__(self, conf: str, settings: Settings, worker_main: WorkerMain = serve) -> None:
        self.phase = Phase.STARTING
        self.generation = 0
        self.slots: list[Slot] = []
        self._conf = conf
        self._settings = settings
        self._worker_main = worker_main
        self._scoreboard = Scoreboard()
        self._upcoming: Upcoming | None = None
        self._leaving: list[Slot] = []  # given up, with workers that have not ended yet
        self._reload_again = False
        self._stop_until = 0.0
        self._exit_code = 0
        self._wakeup: socket.socket
        self._wakeup_write: socket.socket
        self._error_log: ErrorLog

    # the run

    def run(self) -> int:
        """Run until told to stop; returns the exit code.

        Raises:
            SettingsError: an address, a directory or the pid file cannot be had.
        """
        settings = self._settings
        prepare_runtime_dir(settings)
        self._error_log = open_error_log(settings)
        pid_file = PidFile(settings.path(settings.pid))
        pid_file.write()
        remove_stale_locks(settings)
        try:
            self._catch_signals()
            addresses = all_addresses(settings, [])
            for _ in range(settings.worker_count()):
                self.slots.append(Slot(open_missing([], addresses, settings.backlog)))
            self._scoreboard.set_slots(len(self.slots))
            listening = ", ".join(settings.listen)
            log.info("propylon %s, %d workers, listening on %s", own_version(), len(self.slots), listening)
            self.generation = 1
            for at in range(len(self.slots)):
                self._fill(at)
            while self.phase is not Phase.STOPPING or self._everyone():
                self._step()
        finally:
            for child in self._everyone():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL)
            pid_file.remove()
        log.info("exit")
        return self._exit_code

    def _step(self) -> None:
        """Wait for something to happen, and deal with it."""
        waiting = {child.control.fileno(): child for child in self._everyone() if not child.silent}
        poll = select.poll()
        for fd in (self._wakeup.fileno(), *waiting):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(self._until_due() * 1000):
            if fd == self._wakeup.fileno():
                for number in self._wakeup.recv(4096):
                    self._signaled(signal.Signals(number))
            else:
                self._heard(waiting[fd])
        self._look_at_the_clock(time.monotonic())

    def _until_due(self) -> float:
        due = [slot.respawn_at for slot in self.slots if slot.respawn_at is not None]
        return max(0.0, min([TICK, *(at - time.monotonic() for at in due)]))

    def _everyone(self) -> list[Child]:
        upcoming = self._upcoming.workers if self._upcoming is not None else []
        return [*(child for slot in (*self.slots, *self._leaving) for child in slot.children()), *upcoming]

    def _catch_signals(self) -> None:
        self._wakeup, self._wakeup_write = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wakeup_write.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, lambda *_: None)

    # signals

    def _signaled(self, received: signal.Signals) -> None:
        if received == signal.SIGCHLD:
            self._reap()
            return
        command = plan(self.phase, received)
        log.debug("%s: %s", received.name, command.value)
        if command is Command.RELOAD:
            self._reload()
        elif command is Command.RELOAD_AGAIN:
            self._reload_again = True
        elif command is Command.DRAIN:
            self._stop(graceful=True)
        elif command is Command.TERMINATE:
            self._stop(graceful=False)
        elif command is Command.REOPEN_LOGS:
            self._reopen_logs()
        elif command in (Command.GROW, Command.SHRINK):
            self._resize(1 if command is Command.GROW else -1)

    def _stop(self, graceful: bool) -> None:
        if self.phase is not Phase.STOPPING:
            notify("STOPPING=1")
            log.info("stopping %s", "gracefully" if graceful else "fast")
        self.phase = Phase.STOPPING
        grace = self._settings.worker_shutdown_timeout + KILL_AFTER if graceful else KILL_AFTER
        self._stop_until = time.monotonic() + grace
        for child in self._everyone():
            self._tell(child, signal.SIGQUIT if graceful else signal.SIGTERM)

    def _reopen_logs(self) -> None:
        try:
            self._error_log.reopen()
            give_error_log(self._settings)
        except (OSError, SettingsError) as error:
            log.error("cannot reopen the error log: %s", error)
        for child in self._everyone():
            self._tell(child, signal.SIGUSR1)

    def _tell(self, child: Child, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.pid, number)

    # workers

    def _fill(self, at: int) -> None:
        slot = self.slots[at]
        slot.respawn_at = None
        try:
            slot.worker = self._fork(at, self._settings, slot.listeners)
        except OSError as error:
            slot.failures += 1
            delay = respawn_delay(slot.failures)
            slot.respawn_at = time.monotonic() + delay
            log.error("a worker for slot %d cannot be forked: %s; trying again in %.1f s", at, error.strerror, delay)

    def _fork(self, at: int, settings: Settings, listeners: Listeners) -> Child:
        """Fork a worker.

        Raises:
            OSError: there are too many processes, descriptors or workers that drain, or too little memory.
        """
        entry = self._scoreboard.allocate(at, self.generation, settings.store_identity())
        try:
            return self._fork_for(entry, at, settings, listeners)
        except OSError:
            self._scoreboard.release(entry)
            raise

    def _fork_for(self, entry: Entry, at: int, settings: Settings, listeners: Listeners) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        alike = [child.entry for child in self._everyone() if child.entry.store == entry.store]
        minimum = max((other.revision for other in alike), default=0)
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            ours.close()
            child = Child(os.getpid(), self.generation, theirs, entry, time.monotonic())
            mine = listeners + self._control_listeners(settings, listeners)
            self._become_worker(at, settings, child, mine, minimum)
        theirs.close()
        entry.pid = pid
        return Child(pid, self.generation, ours, entry, time.monotonic())

    def _control_listeners(self, settings: Settings, own: Listeners) -> Listeners:
        """Return the control sockets of the other slots: when a worker hangs, the others answer in its place."""
        upcoming = self._upcoming
        slots = upcoming.listeners if upcoming is not None else [slot.listeners for slot in self.slots]
        control = settings.control_address()
        return [listener for slot in slots for listener in slot if listener[0] == control and listener not in own]

    def _become_worker(
        self, at: int, settings: Settings, me: Child, listeners: Listeners, minimum_revision: int
    ) -> None:
        """Turn this child of the fork into a worker; does not return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in HANDLED:
                signal.signal(number, signal.SIG_DFL)
            # Ctrl-C and a HUP to the whole group are the master's to deal with.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            self._close_what_is_not_mine(listeners)
            code = self._worker_main(settings, at, me, listeners, minimum_revision)
        except BaseException:
            log.exception("worker %d has failed", at)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _close_what_is_not_mine(self, listeners: Listeners) -> None:
        # A second copy of another worker's socket would keep its end from being noticed.
        self._wakeup.close()
        self._wakeup_write.close()
        for child in self._everyone():
            child.control.close()
        upcoming = self._upcoming.listeners if self._upcoming is not None else []
        for others in (*(slot.listeners for slot in self.slots), *upcoming):
            close_listeners(listener for listener in others if listener not in listeners)

    def _heard(self, child: Child) -> None:
        try:
            message = child.control.recv(4096, socket.MSG_DONTWAIT)
        except OSError:
            message = b""
        if not message:
            child.silent = True
            return
        child.ready = True
        if self.phase is Phase.STARTING and all(slot.worker and slot.worker.ready for slot in self.slots):
            notify(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=serving")
            log.info("ready")
            self._become_running()
        elif self._upcoming is not None and all(worker.ready for worker in self._upcoming.workers):
            self._switch_generation(self._upcoming)

    def _become_running(self) -> None:
        self.phase = Phase.RUNNING
        if self._reload_again:
            self._reload_again = False
            self._reload()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._buried(pid, os.waitstatus_to_exitcode(status))

    def _buried(self, pid: int, code: int) -> None:
        cause = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        if self._upcoming is not None:
            for child in self._upcoming.workers:
                if child.pid == pid:
                    self._upcoming.workers.remove(child)
                    self._bury(child)
                    self._roll_back(f"worker {pid} of the new generation died: {cause}")
                    return
        for slot in [*self.slots, *self._leaving]:
            for child in slot.children():
                if child.pid == pid:
                    self._bury(child)
                    self._lost(slot, child, cause, code)
                    return

    def _bury(self, child: Child) -> None:
        child.control.close()
        self._scoreboard.release(child.entry)

    def _lost(self, slot: Slot, child: Child, cause: str, code: int) -> None:
        if child is slot.worker:
            slot.worker = None
            if self.phase is Phase.STARTING and code == EXIT_SETTINGS:
                log.critical("worker %d cannot work with these settings", child.pid)
                self._exit_code = 1
                self._stop(graceful=False)
            elif self.phase is not Phase.STOPPING:
                self._schedule_respawn(slot, child, cause)
            return
        slot.retired.remove(child)
        log.info("worker %d of generation %d has ended (%s)", child.pid, child.generation, cause)
        if slot in self._leaving and not slot.children():
            self._leaving.remove(slot)

    def _schedule_respawn(self, slot: Slot, child: Child, cause: str) -> None:
        lived = time.monotonic() - child.born
        slot.failures = slot.failures + 1 if lived < QUICK_DEATH else 1
        delay = respawn_delay(slot.failures)
        slot.respawn_at = time.monotonic() + delay
        log.error("worker %d died after %.1f s: %s; forking again in %.1f s", child.pid, lived, cause, delay)

    # time

    def _look_at_the_clock(self, now: float) -> None:
        if self.phase is Phase.STOPPING:
            if self._stop_until is not None and now > self._stop_until:
                log.warning("workers that do not stop are killed")
                self._stop_until = now + KILL_AFTER
                for child in self._everyone():
                    self._tell(child, signal.SIGKILL)
            return
        if self._upcoming is not None:
            if now > self._upcoming.until:
                self._roll_back("the new generation was not ready within worker_startup_timeout")
            return
        for at, slot in enumerate(self.slots):
            if slot.respawn_at is not None and now >= slot.respawn_at:
                self._fill(at)
            if slot.worker is not None:
                self._check_heartbeat(slot.worker)

    def _check_heartbeat(self, child: Child) -> None:
        beat = child.entry.heartbeat_ns
        limit = self._settings.worker_heartbeat_timeout
        if beat and time.monotonic_ns() - beat > limit * 1e9:
            log.error("worker %d has not moved for %g seconds and is killed", child.pid, limit)
            self._tell(child, signal.SIGKILL)
            child.entry.heartbeat_ns = 0

    # reload

    def _reload(self) -> None:
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        log.info("reloading %s", self._conf)
        try:
            settings = load_settings(self._conf)
            if any(getattr(settings, name) != getattr(self._settings, name) for name in FIXED):
                raise SettingsError(f"{', '.join(FIXED)} cannot be changed by a reload; restart instead")
            self._bring_up(settings, settings.worker_count())
        except SettingsError as error:
            self._reload_failed(str(error))

    def _resize(self, by: int) -> None:
        count = len(self.slots) + by
        if not 1 <= count <= MAX_WORKERS:
            return
        log.info("%d workers from now on", count)
        try:
            self._bring_up(self._settings, count)
        except SettingsError as error:
            self._reload_failed(str(error))

    def _bring_up(self, settings: Settings, count: int) -> None:
        """Fork a new generation of ``count`` workers beside the old one."""
        present = [slot.listeners for slot in self.slots]
        addresses = all_addresses(settings, present)
        shared = share_out(present, count, addresses)
        opened: list[Listeners] = []
        try:
            for listeners in shared:
                opened.append(open_missing(listeners, addresses, settings.backlog))
                listeners += opened[-1]
        except SettingsError:
            for fresh in opened:
                close_listeners(fresh)
            raise
        upcoming = Upcoming(settings, time.monotonic() + settings.worker_startup_timeout, shared, opened)
        self.generation += 1
        self.phase = Phase.RELOADING
        self._upcoming = upcoming
        try:
            for at, listeners in enumerate(upcoming.listeners):
                upcoming.workers.append(self._fork(at, settings, listeners))
        except OSError as error:
            self._roll_back(f"a worker cannot be forked: {error.strerror}")

    def _switch_generation(self, upcoming: Upcoming) -> None:
        """Let the new generation take over: the old one drains."""
        self._settings = upcoming.settings
        self._upcoming = None
        count = len(upcoming.workers)
        kept = [listener for listeners in upcoming.listeners for listener in listeners]
        for slot in self.slots:
            self._retire(slot)
            close_listeners(listener for listener in slot.listeners if listener not in kept)
        given_up, self.slots = self.slots[count:], self.slots[:count]
        self.slots += [Slot([]) for _ in range(count - len(self.slots))]
        for slot, listeners, worker in zip(self.slots, upcoming.listeners, upcoming.workers, strict=True):
            slot.listeners, slot.worker = listeners, worker
            slot.failures, slot.respawn_at = 0, None
        self._scoreboard.set_slots(count)
        for slot in given_up:
            slot.listeners = []
        self._leaving += [slot for slot in given_up if slot.children()]
        self._error_log.close()
        self._error_log = open_error_log(self._settings)
        log.info("generation %d serves", self.generation)
        self._write_result(True, "")
        notify("READY=1\nSTATUS=serving")
        self._become_running()

    def _retire(self, slot: Slot) -> None:
        if slot.worker is not None:
            self._tell(slot.worker, signal.SIGQUIT)
            slot.retired.append(slot.worker)
            slot.worker = None

    def _roll_back(self, reason: str) -> None:
        """End the new generation; the old one has never stopped to serve."""
        upcoming, self._upcoming = self._upcoming, None
        if upcoming is None:
            return
        for worker in upcoming.workers:
            self._tell(worker, signal.SIGKILL)
        if upcoming.workers:
            self._leaving.append(Slot([], retired=upcoming.workers))
        for opened in upcoming.opened:
            close_listeners(opened)
        self.generation -= 1
        self._reload_failed(reason)

    def _reload_failed(self, reason: str) -> None:
        log.error("reload failed, generation %d goes on: %s", self.generation, reason)
        self._write_result(False, reason)
        notify("READY=1\nSTATUS=serving; the last reload failed")
        if self.phase is Phase.RELOADING:
            self._become_running()

    def _write_result(self, ok: bool, reason: str) -> None:
        path = self._settings.path(RELOAD_RESULT)
        result = {"time": time.time_ns(), "generation": self.generation, "ok": ok, "reason": reason}
        with contextlib.suppress(OSError):
            write_own(path.with_suffix(".tmp"), json.dumps(result))
            path.with_suffix(".tmp").replace(path)


def all_addresses(settings: Settings, present: Sequence[Listeners]) -> list[Address]:
    """Return what is listened on, the control address last; that one must not be shared with another gateway.

    Raises:
        SettingsError: it is taken, by others than us.
    """
    control = settings.control_address()
    if control is None:
        return settings.addresses()
    if not any(address == control for listeners in present for address, _ in listeners):
        try:
            check_nobody_listens(control)
        except SettingsError as error:
            raise SettingsError(f'control.listen: {error}; choose another, or "" for none') from error
    return [*settings.addresses(), control]


class PidFile:
    """The file that tells which process to signal."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self) -> None:
        """Enter our pid.

        Raises:
            SettingsError: another master is alive, or the file cannot be written.
        """
        pid = self.read()
        if pid is not None and pid != os.getpid() and is_alive(pid):
            raise SettingsError(f"pid: {self._path} names process {pid}, which is running; stop it first")
        try:
            write_own(self._path, f"{os.getpid()}\n")
        except OSError as error:
            raise SettingsError(f"pid: cannot write {self._path}: {error.strerror}") from error

    def read(self) -> int | None:
        """Return the pid in it."""
        try:
            return int(self._path.read_text())
        except (OSError, ValueError):
            return None

    def remove(self) -> None:
        """Take it away if it is ours."""
        if self.read() == os.getpid():
            self._path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Tell whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def give_to_user(path: Path, settings: Settings) -> None:
    """Hand a file over to whom the workers run as, when we are root; raises SettingsError."""
    if not settings.user or os.geteuid() != 0:
        return
    user, _, group = settings.user.partition(":")
    try:
        gid = grp.getgrnam(group).gr_gid if group else -1
        # A worker may have put a link there, to what is not its own.
        os.chown(path, pwd.getpwnam(user).pw_uid, gid, follow_symlinks=False)
    except (OSError, KeyError) as error:
        raise SettingsError(f"user: {error}") from error


def prepare_runtime_dir(settings: Settings) -> None:
    """Make the directory for the files of the running gateway; raises SettingsError."""
    path = Path(settings.runtime_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"runtime_dir: {path}: {error.strerror}") from error
    give_to_user(path.resolve(), settings)


def remove_stale_locks(settings: Settings) -> None:
    """Remove lock files that workers of another user have left, and ours could not open; while none are running."""
    if settings.user and os.geteuid() == 0:
        for lock in Path(settings.runtime_dir).glob("*.lock"):
            with contextlib.suppress(OSError):
                lock.unlink()


def write_own(path: Path, text: str) -> None:
    """Write a file in a directory that the workers, who may have fewer rights than we, can write to, too.

    Raises:
        OSError: it cannot be written, or something other than a file has been put in its place.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags, 0o644), "w", encoding="utf-8") as file:
        file.write(text)


def open_error_log(settings: Settings) -> ErrorLog:
    """Open the log the settings name; raises SettingsError."""
    try:
        opened = ErrorLog(settings.error_log_path(), settings.log_level, in_thread=False)
    except OSError as error:
        raise SettingsError(f"error_log: {error}") from error
    give_error_log(settings)
    return opened


def give_error_log(settings: Settings) -> None:
    """Let the workers write to the log that the master has opened; raises SettingsError."""
    path = settings.error_log_path()
    if path is not None:
        give_to_user(path, settings)


def own_version() -> str:
    """Return the version of this installation."""
    try:
        return version("propylon")
    except PackageNotFoundError:
        return "(not installed)"


SIGNALS = {
    "reload": signal.SIGHUP,
    "quit": signal.SIGQUIT,
    "stop": signal.SIGTERM,
    "reopen": signal.SIGUSR1,
}


def send_signal(settings: Settings, word: str) -> int:
    """Carry out ``-s``; a reload is waited for."""
    pid = PidFile(settings.path(settings.pid)).read()
    if pid is None or not is_alive(pid):
        print(f"propylon: no master is running ({settings.path(settings.pid)})", file=sys.stderr)
        return 1
    before = reload_result(settings)
    os.kill(pid, SIGNALS[word])
    if word != "reload":
        return 0
    until = time.monotonic() + settings.worker_startup_timeout + 10
    while time.monotonic() < until:
        result = reload_result(settings)
        if result != before:
            if result.get("ok"):
                return 0
            print(f"propylon: reload failed: {result.get('reason')}", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("propylon: the master has not answered in time", file=sys.stderr)
    return 1


def reload_result(settings: Settings) -> dict[str, object]:
    """Return what the master wrote of its last reload."""
    try:
        result = json.loads(settings.path(RELOAD_RESULT).read_text())
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``propylon``."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["ctl"]:
        # It brings grpc, whose threads do not survive a fork: nothing of it is imported for a master.
        from config_sync.ctl.command import main as ctl

        return ctl(words[1:])
    parser = argparse.ArgumentParser(
        "propylon", description="An API gateway configured from etcd.", epilog="propylon ctl --help: what is in etcd."
    )
    parser.add_argument("-c", dest="conf", metavar="FILE", default="conf/config.yaml", help="settings (%(default)s)")
    parser.add_argument("-t", dest="test", action="store_true", help="check the settings and exit")
    parser.add_argument("-s", dest="signal", choices=SIGNALS, help="signal a running master; reload waits")
    parser.add_argument("-v", action="version", version=f"propylon {own_version()}")
    options = parser.parse_args(words)
    try:
        settings = load_settings(options.conf)
        if options.test:
            print(f"propylon: {options.conf} is good", file=sys.stderr)
            return 0
        if options.signal:
            return send_signal(settings, options.signal)
        return Master(options.conf, settings).run()
    except SettingsError as error:
        print(f"propylon: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
