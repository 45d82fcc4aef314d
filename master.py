"""The master: forks workers, keeps their number, replaces them on SIGHUP, and stops them.

It owns one SO_REUSEPORT listening socket for every worker slot and address, for as long as the slot exists. A worker is
born with the sockets of its slot and its successor with the same, so connections that wait in an accept queue are never
lost. The master has one thread and no event loop, and imports nothing of what serves requests; a worker imports that
after the fork, so a reload brings new code too.

    STARTING ──► RUNNING ◄──► RELOADING
        └──────────┴────────────┴──────► STOPPING

The parts are in ``worker.supervisor``: ``signals`` tells what a signal means in each phase, ``rollout`` how workers are
replaced, ``workers`` does it to processes. This is the loop that brings signals, packets, deaths and time to them.
"""

import logging
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from config_sync.settings_file import load_settings
from worker.observability.logs import ErrorLog
from worker.observability.systemd import take_variables
from worker.supervisor.child import Child, Slot
from worker.supervisor.command import own_version, parse_arguments, send_signal
from worker.supervisor.files import (
    claim_standard_streams,
    give_error_log,
    open_error_log,
    prepare_access_log,
    prepare_runtime_dir,
    remove_health_locks,
    remove_stale_locks,
    write_reload_result,
)
from worker.supervisor.inherited import VARIABLE, allot
from worker.supervisor.limits import excess_of, surplus
from worker.supervisor.precheck import CheckMain, check
from worker.supervisor.record import RecordPublisher
from worker.supervisor.rolling import Kind, Rolling, recycle_plan, reload_plan, resize_plan
from worker.supervisor.signals import HANDLED, Command, Phase, Wishes, plan
from worker.supervisor.spawn import WorkerMain, serve
from worker.supervisor.status import View, longest_silence
from worker.supervisor.succession import Inheritance, Succession
from worker.supervisor.upgrade import Word, has_terminal
from worker.supervisor.workers import KILL_AFTER, Workers

log = logging.getLogger("propylon.master")

TICK = 1.0  # seconds between two looks at the clock
HASTE = 5.0  # seconds that the oldest of too many generations gets
RECYCLE_REST = 10.0  # seconds between the recycling of one worker and that of the next
FIXED = ("runtime_dir", "pid", "user")  # settings: the files of those who run already depend on them
MAX_WORKERS = 1_024
EXIT_SETTINGS = 78  # what a worker ends with when its settings are of no use (EX_CONFIG)


class Master:
    """The supervising process."""

    def __init__(
        self,
        conf: str,
        settings: Settings,
        worker_main: WorkerMain = serve,
        check_main: CheckMain = check,
        inheritance: Inheritance | None = None,
    ) -> None:
        self.phase = Phase.STARTING
        self.generation = 1  # the one in force
        self._last_generation = 1  # that was tried
        self.workers = Workers(settings, worker_main)
        self.wishes = Wishes()
        self._conf = conf
        self._check_main = check_main
        self._record = RecordPublisher(self.workers.scoreboard, own_version())
        self._rolling: Rolling | None = None
        self._inheritance = inheritance if inheritance is not None else Inheritance({})
        self._succession = Succession(self._inheritance, settings)
        self._reporter = self._succession.reporter
        self._reloads = 0
        self._failure = ""  # of the last reload
        self._is_resting = False  # told to have no workers until the next rollout
        self._phase_until = math.inf
        self._recycle_at = 0.0
        self._stop_until = 0.0
        self._exit_code = 0
        self._wakeup: socket.socket
        self._wakeup_write: socket.socket
        self._error_log: ErrorLog

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self.workers.settings

    # the run

    def run(self) -> int:
        """Run until told to stop; returns the exit code.

        Raises:
            SettingsError: an address, a directory or the pid file cannot be had.
        """
        settings, workers = self.settings, self.workers
        prepare_runtime_dir(settings)
        self._error_log = open_error_log(settings)
        prepare_access_log(settings)
        self._succession.pid_file.write()
        if not self._succession.predecessor.is_there:
            remove_stale_locks(settings)
        remove_health_locks(settings)
        try:
            self._catch_signals()
            self._open(settings)
            workers.scoreboard.set_slots(len(workers.slots))
            listening = ", ".join(settings.listen)
            log.info("propylon %s, %d workers, listening on %s", own_version(), len(workers.slots), listening)
            self._phase_until = time.monotonic() + settings.worker_startup_timeout
            self._succession.record(False, self.generation)
            for slot in workers.slots:
                workers.fill(slot, self.generation, settings)
            while self.phase is not Phase.STOPPING or any(workers.everyone()):
                self._step()
        finally:
            for child in workers.everyone():
                workers.signal(child, signal.SIGKILL)
            self._succession.pid_file.remove()
            remove_health_locks(settings)
        log.info("exit")
        return self._exit_code

    def _open(self, settings: Settings) -> None:
        """Open the listening sockets, as far as we were not born with them."""
        inherited = self._inheritance.sockets()
        self._reporter.keeps(inherited)
        control, count = settings.control_address(), settings.worker_count()
        given, unwanted = allot(inherited, [*settings.addresses(), *([control] if control else [])], count)
        for address, sock in unwanted:
            log.warning("a socket for %s:%d, which we were given, is closed: nothing in listen names it", *address)
            sock.close()
        for _, sock in (listener for listeners in given for listener in listeners):
            sock.listen(settings.backlog)
        self.workers.groups.is_kept = self._reporter.is_activated
        self.workers.begin_with(given, settings, count)
        self.workers.open(settings, count)

    def _step(self) -> None:
        """Wait for something to happen, and deal with it."""
        waiting = {child.control.fileno(): child for child in self.workers.everyone() if not child.silent}
        poll = select.poll()
        masters = self._succession.descriptors()
        for fd in (self._wakeup.fileno(), *masters, *waiting):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(self._until_due() * 1000):
            if fd == self._wakeup.fileno():
                for number in self._wakeup.recv(4096):
                    self._signaled(signal.Signals(number))
            elif fd in masters:
                self._succession.heard(fd)
            else:
                self._heard(waiting[fd])
        self._begin_what_is_wished()
        now = time.monotonic()
        self._look_at_the_clock(now)
        self._succession.look(now)
        self._record.publish(self.phase.value, self.generation)
        self._reporter.report(now, self._view(now), self.workers.places())

    def _until_due(self) -> float:
        if self.phase is Phase.RUNNING and self.wishes:
            return 0.0
        due = [slot.respawn_at for slot in self.workers.slots if slot.respawn_at is not None]
        if self.workers.groups.due is not None and self.phase is not Phase.STOPPING:
            due.append(self.workers.groups.due)
        if self._rolling is not None and self._rolling.due is not None:
            due.append(self._rolling.due)
        now = time.monotonic()
        return max(0.0, min([TICK, self._reporter.due(now), *(at - now for at in due)]))

    def _view(self, now: float) -> View:
        """Look at ourselves, as systemd is to see us."""
        serving = [[child.entry for child in slot.children() if child.serves] for slot in self.workers.slots]
        silence = longest_silence(self._reporter.watchdog, self.settings.worker_heartbeat_timeout)
        return View(
            phase=self.phase,
            pid=os.getpid(),
            generation=self.generation,
            slots=len(serving),
            ready=sum(1 for entries in serving if entries),
            beating=sum(any(now - entry.heartbeat_ns / 1e9 < silence for entry in entries) for entries in serving),
            revision=min((entry.revision for entries in serving for entry in entries), default=0),
            reloads=self._reloads,
            failure=self._failure,
            until=self._phase_until,
            is_resting=self._is_resting,
        )

    def _catch_signals(self) -> None:
        self._wakeup, self._wakeup_write = socket.socketpair()
        self._wakeup.setblocking(False)
        self._wakeup_write.setblocking(False)
        self.workers.own_sockets = lambda: [self._wakeup, self._wakeup_write, *self._succession.sockets()]
        self.workers.revision_before = self._inheritance.revision
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
        if command is Command.DRAIN:
            self._stop(graceful=True)
        elif command is Command.TERMINATE:
            self._stop(graceful=False)
        elif command is Command.ABORT:
            self._abort()
        elif command is Command.REOPEN_LOGS:
            self._reopen_logs()
        else:
            self.wishes.note(command)

    def _stop(self, graceful: bool) -> None:
        if self.phase is not Phase.STOPPING:
            self._succession.stopping()
            log.info("stopping %s", "gracefully" if graceful else "fast")
        self.phase = Phase.STOPPING
        if self._rolling is not None:
            self._rolling.drop()
            self._rolling = None
        seconds = self.settings.worker_shutdown_timeout if graceful else 0.0
        self._stop_until = self._phase_until = time.monotonic() + seconds + KILL_AFTER
        for child in self.workers.everyone():
            if graceful:
                self.workers.drain(child, "stop", seconds)
            else:
                self.workers.signal(child, signal.SIGTERM)

    def _abort(self) -> None:
        """Die as the signal says; workers that hang would not notice, and stay for ever."""
        now, silence = (
            time.monotonic(),
            longest_silence(self._reporter.watchdog, self.settings.worker_heartbeat_timeout),
        )
        for child in self.workers.everyone():
            if now - (child.entry.heartbeat_ns / 1e9 or child.born) >= silence:
                log.error("worker %d hangs, and is killed", child.pid)
                self.workers.signal(child, signal.SIGKILL)
        log.critical("aborted")
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGABRT)

    def _reopen_logs(self) -> None:
        try:
            self._error_log.reopen()
            give_error_log(self.settings)
            prepare_access_log(self.settings)
        except (OSError, SettingsError) as error:
            log.error("cannot reopen the logs: %s", error)
        for child in self.workers.everyone():
            self.workers.signal(child, signal.SIGUSR1)

    # workers

    def _heard(self, child: Child) -> None:
        found = self.workers.find(child.pid)
        try:
            is_ready = self.workers.hear(child)
        except BlockingIOError:
            return
        if not is_ready or found is None:
            return
        slot = found[0]
        if self._rolling is not None and self._rolling.involves(slot):
            self._rolling.ready(slot, child)
        self.workers.settle_adoptions()
        if self.phase is Phase.STARTING and all(slot.worker and slot.worker.ready for slot in self.workers.slots):
            log.info("ready")
            self.phase = Phase.RUNNING
            self._phase_until = math.inf
            self._succession.ready(self.generation)

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
        if self._succession.reaped(pid, code):
            return
        cause = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        rolling = self._rolling
        if rolling is not None and rolling.precheck is not None and rolling.precheck.pid == pid:
            rolling.check_ended(cause)
            return
        found = self.workers.find(pid)
        if found is not None:
            slot, child = found
            is_successor, is_retired = child is slot.successor, child in slot.retired
            self.workers.bury(slot, child)
            if child.reason:
                cause = f"{cause}: {child.reason}"
            if is_retired:
                log.info("worker %d of generation %d has ended (%s)", pid, child.generation, cause)
            elif self.phase is not Phase.STOPPING:
                self._lost(slot, child, is_successor, cause, code)

    def _lost(self, slot: Slot, child: Child, is_successor: bool, cause: str, code: int) -> None:
        """Deal with the end of a worker that was in its place."""
        rolling = self._rolling
        if self.phase is Phase.STARTING and code == EXIT_SETTINGS:
            log.critical("worker %d cannot work with these settings", child.pid)
            self._exit_code = 1
            self._stop(graceful=False)
            return
        if child.draining:
            log.info("worker %d of generation %d has ended (%s)", child.pid, child.generation, cause)
        if rolling is not None and rolling.involves(slot):
            if is_successor:
                rolling.died(slot, f"worker {child.pid} of slot {slot.number} died: {cause}")
            else:
                rolling.ended(slot)
        self._fill_later(slot, child, cause)
        self.workers.settle_adoptions()

    def _fill_later(self, slot: Slot, child: Child, cause: str) -> None:
        """See that a slot that is left without anybody gets a worker again."""
        is_empty = slot.worker is None and slot.successor is None
        if is_empty and slot.respawn_at is None and slot in self.workers.slots:
            self.workers.schedule_respawn(slot, child, cause, time.monotonic())

    # time

    def _look_at_the_clock(self, now: float) -> None:
        workers, settings = self.workers, self.settings
        if self.phase is Phase.STOPPING:
            if now > self._stop_until:
                log.warning("workers that do not stop are killed")
                self._stop_until = now + KILL_AFTER
                for child in workers.everyone():
                    workers.signal(child, signal.SIGKILL)
            return
        workers.tick(now)
        workers.kill_the_overdue(now, settings.worker_heartbeat_timeout, settings.worker_startup_timeout)
        for slot in workers.slots:
            if slot.respawn_at is not None and now >= slot.respawn_at:
                workers.fill(slot, self.generation, settings)
        if self._rolling is not None:
            if self._rolling.result is None:
                self._rolling.tick()
            if self._rolling.result is not None:
                self._conclude(self._rolling)
        elif self.phase is Phase.RUNNING and now >= self._recycle_at:
            self._recycle(now)

    # rollouts

    def _begin_what_is_wished(self) -> None:
        if self.phase is not Phase.RUNNING or not self.wishes:
            return
        wishes = self.wishes.take()
        if wishes.upgrade:
            revision = min((entry.revision for entry in self.workers.scoreboard.ready()), default=0)
            self._succession.upgrade(self.settings, self.workers.places(), revision)
        if wishes.reload:
            self.wishes.more, self.wishes.rest = wishes.more, wishes.rest  # on top of what the settings say
            self._reload()
            return
        if wishes.rest:
            self._rest()
            return
        count = min(MAX_WORKERS, max(1, len(self.workers.slots) + wishes.more))
        if count != len(self.workers.slots):
            log.info("%d workers from now on", count)
            rollout = resize_plan(self.settings, len(self.workers.slots), count)
            generations = self.generation, self.generation
            self._roll(Rolling(Kind.RESIZE, rollout, self.workers, self.settings, generations, self._check_main))

    def _rest(self) -> None:
        if has_terminal():
            log.info("SIGWINCH is ignored: the size of the terminal may have changed")
            return
        log.info("the workers are told to drain; the next reload brings others")
        self._is_resting = True
        self.workers.rest(self.settings.worker_shutdown_timeout)

    def _reload(self) -> None:
        self._reloads += 1
        log.info("reloading %s", self._conf)
        began_ns = time.monotonic_ns()
        try:
            settings = load_settings(self._conf)
            if any(getattr(settings, name) != getattr(self.settings, name) for name in FIXED):
                raise SettingsError(f"{', '.join(FIXED)} cannot be changed by a reload; restart instead")
        except SettingsError as error:
            self._report_reload(False, str(error), began_ns)
            return
        self._last_generation += 1
        rollout = reload_plan(settings, len(self.workers.slots))
        generations = self.generation, self._last_generation
        self._roll(Rolling(Kind.RELOAD, rollout, self.workers, settings, generations, self._check_main))

    def _recycle(self, now: float) -> None:
        """Replace one worker that is beyond its limits, if there is one."""
        settings = self.settings
        limits = settings.max_worker_rss, settings.max_worker_requests
        if not any(limits):
            return
        for slot in self.workers.slots:
            child = slot.worker
            if child is None or not child.serves:
                continue
            reason = excess_of(child.entry.rss, child.entry.requests, *limits, child.spread)
            if reason:
                log.info("worker %d is beyond %s, and is replaced", child.pid, reason)
                self._recycle_at = now + RECYCLE_REST
                rollout = recycle_plan(settings, slot.number)
                generations = self.generation, self.generation
                self._roll(Rolling(Kind.RECYCLE, rollout, self.workers, settings, generations, self._check_main))
                return

    def _roll(self, rolling: Rolling) -> None:
        self.phase = Phase.RELOADING
        self._rolling = rolling
        rolling.begin()

    def _conclude(self, rolling: Rolling) -> None:
        """A rollout is over."""
        self._rolling = None
        self.phase = Phase.RUNNING
        self._is_resting = False
        result = rolling.result
        if result is None:
            return
        for slot in self.workers.slots:
            if slot.worker is None and slot.respawn_at is None:
                self.workers.fill(slot, self.generation, self.settings)
        if rolling.kind is Kind.RELOAD:
            if result.ok:
                self.generation = rolling.generation
                self._open_new_log()
            self._report_reload(result.ok, result.reason, rolling.began_ns)
        elif result.ok:
            log.info("%d workers serve", len(self.workers.slots))
        else:
            log.error("the %s failed: %s", rolling.kind.value, result.reason)
        self._end_surplus_generations()

    def _open_new_log(self) -> None:
        try:
            self._error_log = open_error_log(self.settings)
        except SettingsError as error:
            log.error("%s; the old one stays in use", error)

    def _report_reload(self, ok: bool, reason: str, began_ns: int) -> None:
        if ok:
            log.info("generation %d serves", self.generation)
        else:
            log.error("reload failed, generation %d goes on: %s", self.generation, reason)
        self._record.reloaded(ok, reason, self.generation)
        write_reload_result(self.settings, self.generation, ok, reason, began_ns)
        self._failure = reason
        self._succession.record(True, self.generation)

    def _end_surplus_generations(self) -> None:
        retired = [child for child in self.workers.everyone() if child.draining and child.generation != self.generation]
        too_old = surplus((child.generation for child in retired), self.settings.max_generations)
        for child in retired:
            if child.generation in too_old:
                log.warning("worker %d of generation %d has %g seconds left", child.pid, child.generation, HASTE)
                self.workers.hasten(child, HASTE)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``propylon``."""
    claim_standard_streams()
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["ctl"]:
        # It brings grpc, whose threads do not survive a fork: nothing of it is imported for a master.
        from config_sync.ctl.command import main as ctl

        return ctl(words[1:])
    options = parse_arguments(words)
    inheritance = Inheritance(take_variables(os.environ, [VARIABLE]))
    try:
        settings = load_settings(options.conf)
        if options.test:
            print(f"propylon: {options.conf} is good", file=sys.stderr)
            return 0
        if options.signal:
            return send_signal(settings, options.signal)
        return Master(options.conf, settings, inheritance=inheritance).run()
    except SettingsError as error:
        inheritance.predecessor.say(Word("failed", str(error)))
        print(f"propylon: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
