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

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from config_sync.errors import SettingsError
from config_sync.settings import Settings, load_settings
from worker.observability.logs import ErrorLog
from worker.observability.systemd import notify
from worker.scoreboard import Scoreboard
from worker.supervisor.child import Child, Slot
from worker.supervisor.command import own_version, parse_arguments, send_signal
from worker.supervisor.files import (
    RELOAD_RESULT,
    PidFile,
    give_error_log,
    open_error_log,
    prepare_runtime_dir,
    remove_stale_locks,
    write_own,
)
from worker.supervisor.listeners import Listeners, all_addresses, close_listeners, open_missing, share_out
from worker.supervisor.messages import Ready, receive_from_worker
from worker.supervisor.record import RecordPublisher
from worker.supervisor.respawn import QUICK_DEATH, respawn_delay
from worker.supervisor.signals import HANDLED, Command, Phase, plan
from worker.supervisor.spawn import WorkerMain, fork_worker, serve

log = logging.getLogger("propylon.master")

TICK = 1.0  # seconds between two looks at the clock
KILL_AFTER = 5.0  # a fast stop gives workers this long
FIXED = ("runtime_dir", "pid", "user")  # settings: the files of those who run already depend on them
MAX_WORKERS = 1_024
EXIT_SETTINGS = 78  # what a worker ends with when its settings are of no use (EX_CONFIG)


@dataclass
class Upcoming:
    """A generation being brought up beside the one that serves."""

    settings: Settings
    until: float  # ready by then, or never
    listeners: list[Listeners]  # of each slot, those opened for it and those that stay
    opened: list[Listeners]
    workers: list[Child] = field(default_factory=list)


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
        self._record = RecordPublisher(self._scoreboard, own_version())
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
        self._record.publish(self.phase.value, self.generation)

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
        alike = [child.entry for child in self._everyone() if child.entry.store == entry.store]
        minimum = max((other.revision for other in alike), default=0)
        mine = listeners + self._control_listeners(settings, listeners)
        try:
            return fork_worker(entry, settings, mine, minimum, lambda: self._sockets_but(mine), self._worker_main)
        except OSError:
            self._scoreboard.release(entry)
            raise

    def _control_listeners(self, settings: Settings, own: Listeners) -> Listeners:
        """Return the control sockets of the other slots: when a worker hangs, the others answer in its place."""
        upcoming = self._upcoming
        slots = upcoming.listeners if upcoming is not None else [slot.listeners for slot in self.slots]
        control = settings.control_address()
        return [listener for slot in slots for listener in slot if listener[0] == control and listener not in own]

    def _sockets_but(self, mine: Listeners) -> list[socket.socket]:
        """Return every socket of the master but these; what a worker closes."""
        upcoming = self._upcoming.listeners if self._upcoming is not None else []
        listeners = [listener for each in (*(slot.listeners for slot in self.slots), *upcoming) for listener in each]
        foreign = [listener[1] for listener in listeners if listener not in mine]
        return [self._wakeup, self._wakeup_write, *(child.control for child in self._everyone()), *foreign]

    def _heard(self, child: Child) -> None:
        try:
            packet = receive_from_worker(child.control)
        except BlockingIOError:
            return
        if packet is None:
            child.silent = True
            return
        if not isinstance(packet.message, Ready):
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
                self._scoreboard.count_restart(at)
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
        self._record.reloaded(ok, reason, self.generation)
        path = self._settings.path(RELOAD_RESULT)
        result = {"time": time.time_ns(), "generation": self.generation, "ok": ok, "reason": reason}
        with contextlib.suppress(OSError):
            write_own(path.with_suffix(".tmp"), json.dumps(result))
            path.with_suffix(".tmp").replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``propylon``."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["ctl"]:
        # It brings grpc, whose threads do not survive a fork: nothing of it is imported for a master.
        from config_sync.ctl.command import main as ctl

        return ctl(words[1:])
    options = parse_arguments(words)
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
