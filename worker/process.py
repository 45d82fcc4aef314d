"""One worker's life; the place that wires every part together.

A worker begins in the child of a fork. It accepts nobody before its configuration is complete, and at least as
new as that of the worker it replaces (``readiness``); then it says so to the master, which tells it what to do from
then on (``life`` is the table of it). Told to drain, it leaves its listening sockets to its successor, finishes what
is under way, and exits.
"""

import asyncio
import grp
import logging
import os
import pwd
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from config_sync import schema
from config_sync.cache import ConfigStore
from config_sync.encryption import Keyring
from config_sync.errors import SettingsError
from config_sync.guard import Guard
from config_sync.relay.election import Lock
from config_sync.settings import Settings
from worker.accepting import Acceptor
from worker.api.control import control_server
from worker.api.metrics import metrics_server
from worker.api.record import Publisher
from worker.api.server import ApiServer
from worker.api.turns import Turns
from worker.context import WorkerContext
from worker.http.http1_server import Http1Server
from worker.http.outbox import Outbox
from worker.life import Life, Turn, turned
from worker.link import MasterLink
from worker.observability.logs import ErrorLog
from worker.observability.own_metrics import OwnMetrics
from worker.observability.stacks import ignore_stack_dumps, register_stack_dumps
from worker.orphan import LOOK, has_successor
from worker.plugins.loading import import_built_in, load_registry
from worker.plugins.registry import Registry
from worker.readiness import Readiness
from worker.scoreboard import Entry, Scoreboard, WorkerState
from worker.supervisor.messages import Failed, Ready, Reason, send
from worker.upstream.health.monitor import HealthMonitor
from worker.upstream.health.probe import TlsContexts
from worker.upstream.health.registry import CheckRegistry
from worker.vitals import Vitals

log = logging.getLogger("propylon.worker")

EXIT_SETTINGS = 78  # EX_CONFIG: starting again with the same settings is of no use
HEARTBEAT = 1.0  # seconds
DRAIN_CHECK = 0.05  # seconds
SECRETS_TIME = 3.0  # seconds for secret managers to answer before a worker serves without
FLUSH_TIME = 3.0  # seconds at the end for what plugins still have to send
HEALTH_LOCK = "health-{}.lock"  # of a master, whose workers share a table
STATES = {
    Life.STARTING: WorkerState.STARTING,
    Life.SERVING: WorkerState.READY,
    Life.PAUSED: WorkerState.READY,  # its clients still rely on what it has applied
    Life.DRAINING: WorkerState.DRAINING,
    Life.ENDING: WorkerState.DRAINING,
}


@dataclass(frozen=True)
class WorkerBoot:
    """What a worker is born with."""

    settings: Settings
    slot: int
    generation: int
    sockets: list[socket.socket]  # listening, of its slot
    api_sockets: list[socket.socket]  # listening, of all slots, for the control interface …
    metrics_sockets: list[socket.socket]  # … and for scrapes
    control: socket.socket  # to the master
    entry: Entry
    minimum_revision: int  # not ready below it
    master: int  # its pid


def run_worker(boot: WorkerBoot) -> int:
    """Live, and return the exit code."""
    error_log: ErrorLog | None = None
    try:
        import_built_in()
        drop_privileges(boot.settings.user)
        error_log = ErrorLog(boot.settings.error_log_path(), boot.settings.log_level, in_thread=True)
        register_stack_dumps(error_log.fileno())
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        Worker(boot, loop, error_log).run()
    except (SettingsError, OSError) as error:
        log.critical("worker %d cannot start: %s", boot.slot, error)
        send(boot.control, Failed(str(error)))
        return EXIT_SETTINGS
    except Exception as error:
        log.exception("worker %d has failed", boot.slot)
        send(boot.control, Failed(f"{type(error).__name__}: {error}"))
        return 1
    finally:
        boot.entry.state = WorkerState.EXITED
        ignore_stack_dumps()
        if error_log is not None:
            error_log.close()
    return 0


def drop_privileges(user: str) -> None:
    """Become ``name`` or ``name:group``, when we are root and a user is given.

    Raises:
        SettingsError: there is no such user or group.
    """
    if not user or os.geteuid() != 0:
        return
    name, _, group = user.partition(":")
    try:
        account = pwd.getpwnam(name)
        gid = grp.getgrnam(group).gr_gid if group else account.pw_gid
    except KeyError as error:
        raise SettingsError(f"user: {error}") from error
    os.initgroups(name, gid)
    os.setgid(gid)
    os.setuid(account.pw_uid)


def open_store(settings: Settings, board: Scoreboard, registry: Registry) -> ConfigStore:
    """Make the empty store of a worker, which the guard watches over; plugins are checked as written."""
    encryption = settings.data_encryption
    keyring = Keyring(encryption.keyring, encryption.enable_encrypt_fields)
    # The clock of the guard is that of confirmations, which all processes share.
    guard = Guard(settings.guard, time.monotonic, lambda: board.confirmed_at)
    return ConfigStore(schema.decoders(keyring, registry), guard)


def open_checks(settings: Settings, board: Scoreboard) -> CheckRegistry | None:
    """Make what knows the health checks of a worker; None when they are switched off."""
    return None if settings.disable_upstream_healthcheck else CheckRegistry(board.health)


def open_monitor(context: WorkerContext, entry: Entry, master: int) -> HealthMonitor | None:
    """Make what moves the health checks of a worker, which takes turns in probing with the others."""
    if context.checks is None:
        return None
    settings, board = context.settings, entry.board
    lock = Lock(settings.path(HEALTH_LOCK.format(master)))
    contexts = TlsContexts(settings.ssl.ssl_trusted_certificate)
    return HealthMonitor(
        context.checks, entry.number, lock, lambda: board.used, context.loop, context.builder.resolve, contexts
    )


class Worker:
    """The parts of a worker, and what moves it from one state to the next."""

    def __init__(self, boot: WorkerBoot, loop: asyncio.AbstractEventLoop, error_log: ErrorLog) -> None:
        settings, entry = boot.settings, boot.entry
        self.life = Life.STARTING
        self._boot = boot
        self._loop = loop
        self._error_log = error_log
        registry = load_registry(settings.plugins.path, settings.plugins.enabled)
        self._store = open_store(settings, entry.board, registry)
        row = entry.board.loads.row(entry.number)
        seed = boot.slot + boot.generation  # a reload must not make the same nodes the first again
        self._context = context = WorkerContext(
            settings,
            loop,
            self._store,
            seed,
            row,
            open_checks(settings, entry.board),
            registry,
            entry.board.state,
            entry.board.series,
            entry.number,
        )
        context.outbox = Outbox(loop, context.downstream_connections)
        self._vitals = Vitals(entry, context)
        self._monitor = open_monitor(context, entry, boot.master)
        self._publisher = Publisher(entry, self._store, lambda: self._readiness.provider.state())
        self._readiness = Readiness(
            settings,
            entry,
            self._store,
            loop,
            boot.minimum_revision,
            progressed=self._publisher.publish,
            may_serve=lambda: self._start(self._accept()),
        )
        self._acceptor = Acceptor(loop, lambda: Http1Server(context), settings.backlog, boot.slot, boot.sockets)
        self._link = MasterLink(boot.control, loop, self)
        turns = Turns(loop)
        self._apis = {
            "the control interface": (control_server(context, self._store, entry, turns), boot.api_sockets),
            "metrics": (metrics_server(context, self._store, entry.board, turns), boot.metrics_sockets),
        }
        board = entry.board
        context.metrics.existence.is_living = lambda pid: any(other.pid == pid for other in board.living())
        self._own_metrics = OwnMetrics(context, self._store, boot.slot)
        self._api_serves = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._drain_until = 0.0
        self._drain_timer: asyncio.TimerHandle | None = None

    def run(self) -> None:
        """Run the loop until the worker has nothing left to do."""
        loop = self._loop
        loop.add_signal_handler(signal.SIGTERM, self._end)
        loop.add_signal_handler(signal.SIGQUIT, lambda: self.drain("stop", self._boot.settings.worker_shutdown_timeout))
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
        self._link.open()
        self._beat()
        if not any(entry.slot == self._boot.slot for entry in self._boot.entry.board.ready()):
            # Nobody else answers on these sockets, and why the gateway is not ready is to be asked now.
            self._start(self._serve_api())
        self._readiness.start()
        try:
            loop.run_forever()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._monitor is not None:
                self._monitor.stop()
            loop.run_until_complete(self._readiness.stop())
            self._acceptor.close()
            for api in self._servers():
                api.close()
            loop.run_until_complete(self._context.plugins.services.flush(FLUSH_TIME))
            self._own_metrics.stop()
            self._context.close()
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _turn(self, turn: Turn) -> bool:
        """Move on; False when that means nothing now."""
        life = turned(self.life, turn)
        if life is None:
            return False
        self.life = life
        self._boot.entry.state = STATES[life]
        return True

    # becoming ready

    async def _serve_api(self) -> None:
        if self._api_serves:
            return
        self._api_serves = True
        for what, (api, sockets) in self._apis.items():
            try:
                await api.listen(sockets)
            except OSError as error:
                log.error("worker %d cannot serve %s: %s", self._boot.slot, what, error)

    def _servers(self) -> list[ApiServer]:
        return [api for api, _ in self._apis.values()]

    async def _accept(self) -> None:
        try:
            await self._listen()
        except Exception as error:
            log.exception("worker %d cannot accept", self._boot.slot)
            self._link.send(Failed(f"cannot accept: {error}"))
            self._loop.stop()

    async def _listen(self) -> None:
        boot = self._boot
        await self._context.secrets.settled(SECRETS_TIME)
        self._context.start()
        self._own_metrics.start(self._loop)
        self._publisher.publish()  # what was loaded from disk has not been told by a provider
        if self._monitor is not None:
            self._monitor.start()
        # First seen by those who wait for a revision, then caught up with what they have been told, then accepting.
        boot.entry.state = WorkerState.READY
        await self._readiness.caught_up()
        await self._acceptor.start()
        await self._serve_api()
        if not self._turn(Turn.READY):
            return
        self._link.send(Ready())
        log.info("worker %d of generation %d is ready at revision %d", boot.slot, boot.generation, self._store.revision)

    # what the master says

    def pause(self) -> None:
        """Accept nobody for the time being."""
        if self._turn(Turn.PAUSE):
            self._acceptor.pause()

    def resume(self) -> None:
        """Be as before a pause or a drain, and say so."""
        was_draining = self.life is Life.DRAINING
        if not self._turn(Turn.RESUME):
            return
        if was_draining:
            log.info("worker %d goes on: it is needed again", self._boot.slot)
            if self._drain_timer is not None:
                self._drain_timer.cancel()
            self._readiness.resume()
            if self._monitor is not None:
                self._monitor.resume()
            for api in self._servers():
                api.resume()
            self._context.undo_drain()
        self._acceptor.resume(lambda: self._link.send(Ready()))

    def adopt(self, slot: int, sockets: list[socket.socket]) -> None:
        """Accept from the sockets of another slot, too."""
        self._acceptor.adopt(slot, sockets)

    def release(self, slot: int, numbers: Sequence[int]) -> None:
        """Accept what waits on the sockets of a slot, or those with these numbers, and give them up."""
        self._acceptor.release(slot, numbers)

    def drain(self, reason: Reason, seconds: float) -> None:
        """Accept nobody any more, finish what is under way, and stop the loop."""
        was_draining = self.life is Life.DRAINING
        if not self._turn(Turn.DRAIN):
            return
        if self.life is Life.ENDING:
            self._loop.stop()
            return
        self._drain_until = self._loop.time() + seconds
        self._context.drain(reason)
        if reason == "stop":
            self._acceptor.close()
        if was_draining:
            return
        self._readiness.drain()
        if self._monitor is not None:
            self._monitor.drain()
        self._acceptor.pause()  # after "reload" it may have to be resumed
        for api in self._servers():
            api.drain()
        self._drain_timer = self._loop.call_later(DRAIN_CHECK, self._check_drained, False)

    def hasten(self, seconds: float) -> None:
        """Be done with a drain within so many seconds."""
        self._drain_until = min(self._drain_until, self._loop.time() + seconds)

    def orphaned(self) -> None:
        """The master is gone."""
        settings = self._boot.settings
        if settings.on_master_death == "drain" or self.life is Life.STARTING:
            log.error("the master is gone")
            self.drain("stop", settings.worker_shutdown_timeout)
            return
        log.error("the master is gone; worker %d serves until there is another", self._boot.slot)
        if self.life is Life.PAUSED:
            self.resume()
        if self.life is Life.SERVING:
            self._start(self._serve_as_orphan())

    async def _serve_as_orphan(self) -> None:
        settings, former = self._boot.settings, self._boot.master
        while not await self._loop.run_in_executor(None, has_successor, settings, former):  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        log.info("there is another master, and worker %d leaves", self._boot.slot)
        self.drain("reload", settings.worker_shutdown_timeout)

    # ending

    def _check_drained(self, was_idle: bool) -> None:
        is_idle = self._context.is_idle() and all(api.is_idle() for api in self._servers())
        if is_idle and was_idle:
            # Twice: the loop may have accepted a client that the context had not been told of yet.
            self._end()
        elif self._loop.time() > self._drain_until and self._context.finish():
            log.warning("%d connections are cut after worker_shutdown_timeout", self._context.connections)
            self._end()
        else:
            self._drain_timer = self._loop.call_later(DRAIN_CHECK, self._check_drained, is_idle)

    def _end(self) -> None:
        self._turn(Turn.END)
        self._loop.stop()

    def _reopen_logs(self) -> None:
        self._error_log.reopen()
        self._context.reopen_logs()

    # what the worker says

    def _beat(self) -> None:
        self._vitals.write()
        self._publisher.publish()
        self._loop.call_later(HEARTBEAT, self._beat)
