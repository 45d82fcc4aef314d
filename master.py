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
import sys
import time
from collections.abc import Callable, Sequence

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from config_sync.settings_file import load_settings
from worker.observability.systemd import take_variables
from worker.supervisor import memory_zones
from worker.supervisor.child import KILL_AFTER, Child, Slot
from worker.supervisor.command import own_version, parse_arguments, send_signal
from worker.supervisor.files import (
    claim_standard_streams,
    prepare_runtime_dir,
    remove_health_locks,
    remove_stale_locks,
    write_reload_result,
)
from worker.supervisor.inherited import VARIABLE
from worker.supervisor.master_log import MasterLog
from worker.supervisor.precheck import CheckMain, check
from worker.supervisor.record import RecordPublisher
from worker.supervisor.reporting import view_of
from worker.supervisor.rollouts import Rollouts
from worker.supervisor.signals import HANDLED, Command, Phase, Wishes, plan
from worker.supervisor.spawn import WorkerMain, import_worker, serve
from worker.supervisor.status import longest_silence
from worker.supervisor.succession import Inheritance, Succession
from worker.supervisor.upgrade import Word, has_terminal
from worker.supervisor.vigil import kill_the_hanging, kill_the_overdue
from worker.supervisor.wakeup import Wakeup
from worker.supervisor.workers import Workers

log = logging.getLogger("propylon.master")

TICK = 1.0  # seconds between two looks at the clock
EXIT_SETTINGS = 78  # what a worker ends with when its settings are of no use (EX_CONFIG)


class Master:
    """The supervising process."""

    def __init__(
        self,
        conf: str,
        settings: Settings,
        worker_main: WorkerMain = serve,
        prepare: Callable[[], None] | None = import_worker,
        check_main: CheckMain = check,
        inheritance: Inheritance | None = None,
    ) -> None:
        self.phase = Phase.STARTING
        self.workers = Workers(settings, worker_main, prepare)
        self.wishes = Wishes()
        self._rollouts = Rollouts(conf, self.workers, check_main)
        self._record = RecordPublisher(self.workers.scoreboard, own_version())
        self._inheritance = inheritance if inheritance is not None else Inheritance({})
        self._succession = Succession(self._inheritance, settings)
        self._reporter = self._succession.reporter
        self._is_resting = False  # told to have no workers until the next rollout
        self._phase_until = math.inf
        self._stop_until = 0.0
        self._exit_code = 0
        self._wakeup: Wakeup
        self._log: MasterLog

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self.workers.settings

    @property
    def generation(self) -> int:
        """The one in force."""
        return self._rollouts.generation

    # the run

    def run(self) -> int:
        """Run until told to stop; returns the exit code.

        Raises:
            SettingsError: an address, a directory or the pid file cannot be had.
        """
        settings, workers = self.settings, self.workers
        prepare_runtime_dir(settings)
        self._log = MasterLog(settings)
        self._succession.pid_file.write()
        if not self._succession.predecessor.is_there:
            remove_stale_locks(settings)
            memory_zones.remove_own(settings)
        memory_zones.remove_stale(settings)
        remove_health_locks(settings)
        try:
            self._wakeup = Wakeup(HANDLED)
            workers.own_sockets = lambda: [*self._wakeup.sockets(), *self._succession.sockets()]
            workers.revision_before = self._inheritance.revision
            self._succession.open(workers)
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
            workers.templates.drop()
            for child in workers.everyone():
                child.signal(signal.SIGKILL)
            self._succession.pid_file.remove()
            remove_health_locks(settings)
            if self._succession.is_alone:
                memory_zones.remove_own(settings)
        log.info("exit")
        return self._exit_code

    def _step(self) -> None:
        """Wait for something to happen, and deal with it."""
        waiting = {child.control.fileno(): child for child in self.workers.everyone() if not child.silent}
        poll = select.poll()
        masters = self._succession.descriptors()
        for fd in (self._wakeup.fileno(), *masters, *waiting):
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(self._until_due() * 1000):
            if fd == self._wakeup.fileno():
                for number in self._wakeup.received():
                    self._signaled(number)
            elif fd in masters:
                self._succession.heard(fd)
            else:
                self._heard(waiting[fd])
        self._begin_what_is_wished()
        now = time.monotonic()
        self._look_at_the_clock(now)
        self._succession.look(now)
        self._record.publish(self.phase.value, self.generation)
        rollouts = self._rollouts
        view = view_of(self.workers, self.phase, rollouts, self._phase_until, self._is_resting, self._silence(), now)
        self._reporter.report(now, view, self.workers.places())

    def _until_due(self) -> float:
        if self._may_begin():
            return 0.0
        due = [slot.respawn_at for slot in self.workers.slots if slot.respawn_at is not None]
        if self.workers.groups.due is not None and self.phase is not Phase.STOPPING:
            due.append(self.workers.groups.due)
        if self._rollouts.due is not None:
            due.append(self._rollouts.due)
        now = time.monotonic()
        return max(0.0, min([TICK, self._reporter.due(now), *(at - now for at in due)]))

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
            self._log.reopen(self.settings)
            for child in self.workers.everyone():
                child.signal(signal.SIGUSR1)
        else:
            self.wishes.note(command)

    def _stop(self, graceful: bool) -> None:
        if self.phase is not Phase.STOPPING:
            self._succession.stopping()
            log.info("stopping %s", "gracefully" if graceful else "fast")
        self.phase = Phase.STOPPING
        self._rollouts.drop()
        self.workers.templates.drop()
        seconds = self.settings.worker_shutdown_timeout if graceful else 0.0
        self._stop_until = self._phase_until = time.monotonic() + seconds + KILL_AFTER
        for child in self.workers.everyone():
            if graceful:
                child.drain("stop", seconds)
            else:
                child.signal(signal.SIGTERM)

    def _silence(self) -> float:
        """Return after how many seconds a worker that says nothing is taken for hanging, by systemd's watchdog."""
        return longest_silence(self._reporter.watchdog, self.settings.worker_heartbeat_timeout)

    def _abort(self) -> None:
        """Die as the signal says; workers that hang would not notice, and stay for ever."""
        kill_the_hanging(self.workers.everyone(), time.monotonic(), self._silence())
        log.critical("aborted")
        signal.signal(signal.SIGABRT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGABRT)

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
        self._rollouts.ready(slot, child)
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
        if self._rollouts.reaped(pid, cause) or self.workers.templates.reaped(pid):
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
        if self.phase is Phase.STARTING and code == EXIT_SETTINGS:
            log.critical("worker %d cannot work with these settings", child.pid)
            self._exit_code = 1
            self._stop(graceful=False)
            return
        if child.draining:
            log.info("worker %d of generation %d has ended (%s)", child.pid, child.generation, cause)
        self._rollouts.lost(slot, child, is_successor, cause)
        is_empty = slot.worker is None and slot.successor is None
        if is_empty and slot.respawn_at is None and slot in self.workers.slots:
            self.workers.schedule_respawn(slot, child, cause, time.monotonic())
        self.workers.settle_adoptions()

    # time

    def _look_at_the_clock(self, now: float) -> None:
        workers, settings = self.workers, self.settings
        if self.phase is Phase.STOPPING:
            if now > self._stop_until:
                log.warning("workers that do not stop are killed")
                self._stop_until = now + KILL_AFTER
                for child in workers.everyone():
                    child.signal(signal.SIGKILL)
            return
        workers.tick(now)
        kill_the_overdue(workers.everyone(), now, settings.worker_heartbeat_timeout, settings.worker_startup_timeout)
        workers.hurry(now)
        for slot in workers.slots:
            if slot.respawn_at is not None and now >= slot.respawn_at:
                workers.fill(slot, self.generation, settings)
        if self.phase is not Phase.STARTING:
            workers.templates.keep(self.generation, settings, now)
            self._rollouts.tick(now)
            self._note_rollout()

    # rollouts

    def _may_begin(self) -> bool:
        """Tell whether what is wished can be begun; a reload waits for the oldest of too many generations."""
        if self.phase is not Phase.RUNNING or not self.wishes:
            return False
        return not self.wishes.reload or self._rollouts.has_room()

    def _begin_what_is_wished(self) -> None:
        if not self._may_begin():
            return
        wishes, workers, rollouts = self.wishes.take(), self.workers, self._rollouts
        if wishes.upgrade:
            revision = min((entry.revision for entry in workers.scoreboard.ready()), default=0)
            self._succession.upgrade(self.settings, workers.places(), revision)
        if wishes.reload:
            self.wishes.more, self.wishes.rest = wishes.more, wishes.rest  # on top of what the settings say
            rollouts.reload()
        elif wishes.rest:
            self._rest()
        elif wishes.more:
            rollouts.resize(wishes.more)
        self._note_rollout()

    def _rest(self) -> None:
        if has_terminal():
            log.info("SIGWINCH is ignored: the size of the terminal may have changed")
            return
        log.info("the workers are told to drain; the next reload brings others")
        self._is_resting = True
        self.workers.rest(self.settings.worker_shutdown_timeout)

    def _note_rollout(self) -> None:
        """Be in the phase that fits, and tell how a rollout that is over has ended."""
        outcome = self._rollouts.take_outcome()
        self.phase = Phase.RELOADING if self._rollouts.is_under_way else Phase.RUNNING
        if outcome is None:
            return
        self._is_resting = False
        if outcome.is_reload:
            if outcome.ok:
                self._log.replace(self.settings)
            self._record.reloaded(outcome.ok, outcome.reason, self.generation)
            write_reload_result(self.settings, self.generation, outcome.ok, outcome.reason, outcome.began_ns)
            self._succession.record(True, self.generation)


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
