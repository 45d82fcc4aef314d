"""One worker's life; the place that wires every part together.

    STARTING ──► READY ──► DRAINING ──► exit

A worker begins in the child of a fork. It accepts nobody before its configuration is complete, and at least as
new as that of the worker it replaces; then it says so to the master. Told to drain, it leaves its listening
sockets to its successor, finishes what is under way, and exits.
"""

import asyncio
import grp
import logging
import os
import pwd
import signal
import socket
import time
from dataclasses import dataclass

import uvloop

from config_sync import schema
from config_sync.cache import ConfigStore
from config_sync.encryption import Keyring
from config_sync.errors import SettingsError
from config_sync.guard import Guard
from config_sync.last_good import LastGood
from config_sync.providers import open_provider
from config_sync.relay.election import Lock
from config_sync.settings import Settings
from config_sync.status import SyncStatus
from worker.api.control import ControlServer
from worker.api.record import Publisher, decode_status
from worker.context import WorkerContext
from worker.http.http1_server import Http1Server
from worker.observability.logs import ErrorLog
from worker.scoreboard import Entry, Scoreboard, WorkerState
from worker.upstream.health.monitor import HealthMonitor
from worker.upstream.health.registry import CheckRegistry
from worker.vitals import Vitals

log = logging.getLogger("propylon.worker")

EXIT_SETTINGS = 78  # EX_CONFIG: starting again with the same settings is of no use
HEARTBEAT = 1.0  # seconds
DRAIN_CHECK = 0.05  # seconds
CATCH_UP_CHECK = 0.01  # seconds
STALE_CHECK = 1.0  # seconds
READY = b"ready"
DRAIN = b"drain"
MAX_MESSAGE_BYTES = 4_096
HEALTH_LOCK = "health.lock"


@dataclass(frozen=True)
class WorkerBoot:
    """What a worker is born with."""

    settings: Settings
    slot: int
    generation: int
    sockets: list[socket.socket]  # listening, of its slot
    api_sockets: list[socket.socket]  # listening, of all slots, for the control interface
    control: socket.socket  # to the master; a message a packet, its end means the master is gone
    entry: Entry
    minimum_revision: int  # not ready below it


def run_worker(boot: WorkerBoot) -> int:
    """Live, and return the exit code."""
    error_log: ErrorLog | None = None
    try:
        drop_privileges(boot.settings.user)
        error_log = ErrorLog(boot.settings.error_log_path(), boot.settings.log_level, in_thread=True)
        loop = uvloop.new_event_loop()
        asyncio.set_event_loop(loop)
        Worker(boot, loop, error_log).run()
    except (SettingsError, OSError) as error:
        log.critical("worker %d cannot start: %s", boot.slot, error)
        return EXIT_SETTINGS
    finally:
        boot.entry.state = WorkerState.EXITED
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


def open_store(settings: Settings, board: Scoreboard) -> ConfigStore:
    """Make the empty store of a worker, which the guard of the settings watches over."""
    encryption = settings.data_encryption
    keyring = Keyring(encryption.keyring, encryption.enable_encrypt_fields)
    # The clock of the guard is that of confirmations, which all processes share.
    return ConfigStore(schema.decoders(keyring), Guard(settings.guard, time.monotonic, lambda: board.confirmed_at))


def open_last_good(settings: Settings, store: ConfigStore, loop: asyncio.AbstractEventLoop) -> LastGood | None:
    """Make what loads and keeps the snapshot; None when there is none, as with a file, which is on disk itself."""
    path = settings.snapshot_path()
    if path is None or settings.config_provider != "etcd":
        return None
    return LastGood(path, settings.etcd.prefix, store, loop)


def open_checks(settings: Settings, board: Scoreboard) -> CheckRegistry | None:
    """Make what knows the health checks of a worker; None when they are switched off."""
    return None if settings.disable_upstream_healthcheck else CheckRegistry(board.health)


def open_monitor(context: WorkerContext, entry: Entry) -> HealthMonitor | None:
    """Make what moves the health checks of a worker, which takes turns in probing with the others."""
    if context.checks is None:
        return None
    lock, board = Lock(context.settings.path(HEALTH_LOCK)), entry.board
    return HealthMonitor(context.checks, entry.number, lock, lambda: board.used, context.loop, context.builder.resolve)


class Worker:
    """The parts of a worker, and what moves it from one state to the next."""

    def __init__(self, boot: WorkerBoot, loop: asyncio.AbstractEventLoop, error_log: ErrorLog) -> None:
        self._boot = boot
        self._loop = loop
        self._error_log = error_log
        self._store = open_store(boot.settings, boot.entry.board)
        checks = open_checks(boot.settings, boot.entry.board)
        row = boot.entry.board.loads.row(boot.entry.number)
        self._context = WorkerContext(boot.settings, loop, self._store, boot.slot, row, checks)
        self._monitor = open_monitor(self._context, boot.entry)
        self._provider = open_provider(boot.settings, self._store, loop, self._progressed)
        self._last_good = open_last_good(boot.settings, self._store, loop)
        self._publisher = Publisher(boot.entry, self._store, lambda: self._provider.state())
        self._vitals = Vitals(boot.entry, self._context)
        self._api = ControlServer(self._context, self._store, boot.entry)
        self._api_task: asyncio.Task[None] | None = None
        self._servers: list[asyncio.Server] = []
        self._receiving: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._accepts = False
        self._drain_until = 0.0

    def run(self) -> None:
        """Run the loop until the worker has nothing left to do."""
        loop = self._loop
        loop.add_signal_handler(signal.SIGTERM, loop.stop)
        loop.add_signal_handler(signal.SIGQUIT, self.drain)
        loop.add_signal_handler(signal.SIGUSR1, self._reopen_logs)
        self._boot.control.setblocking(False)
        loop.add_reader(self._boot.control.fileno(), self._control_received)
        self._beat()
        if not any(entry.slot == self._boot.slot for entry in self._boot.entry.board.ready()):
            # Nobody else answers on these sockets, and why the gateway is not ready is to be asked now.
            self._serve_api()
        self._receiving = loop.create_task(self._receive())
        try:
            loop.run_forever()
        finally:
            self._receiving.cancel()
            if self._monitor is not None:
                self._monitor.stop()
            self._provider.stop()
            if self._last_good is not None:
                self._last_good.stop()
                loop.run_until_complete(self._last_good.stopped())
            self._api.close()
            self._context.close()
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    # becoming ready

    async def _receive(self) -> None:
        if self._last_good is not None:
            await self._last_good.load()
            self._loop.call_later(self._boot.settings.etcd.startup_timeout, self._serve_stale, self._last_good)
        self._provider.start()

    def _serve_stale(self, last_good: LastGood) -> None:
        """Serve what was on disk, when etcd has not told us what is true and nobody else serves what is newer."""
        entry = self._boot.entry
        if entry.state != WorkerState.STARTING or self._task is not None:
            return
        if not last_good.may_serve(self._others()):
            self._receiving = self._loop.create_task(self._load_again(last_good))
            return
        log.error(
            "serves the configuration saved at revision %d, which may be out of date: %s",
            self._store.changed,
            self._provider.state().last_error or "etcd has not answered yet",
        )
        self._task = self._loop.create_task(self._accept())

    def _others(self) -> list[SyncStatus]:
        """Return what those have who serve from the same store."""
        mine = self._boot.entry
        return [decode_status(entry.published()) for entry in mine.board.ready() if entry.store == mine.store]

    async def _load_again(self, last_good: LastGood) -> None:
        """Take a file that another worker has written since: what it serves may have been too new to be in ours."""
        try:
            if self._is_cut_off() and await last_good.has_changed() and self._is_cut_off():
                provider = open_provider(self._boot.settings, self._store, self._loop, self._progressed)
                self._provider.stop()
                self._provider = provider
                await last_good.load()
                provider.start()
        finally:
            self._loop.call_later(STALE_CHECK, self._serve_stale, last_good)

    def _is_cut_off(self) -> bool:
        """Tell whether nobody has told us yet what is true, and it does not look as if somebody was about to."""
        store = self._store
        is_told = store.revision > 0 and not store.stale
        return (
            not is_told and self._boot.entry.state == WorkerState.STARTING and self._provider.state().last_error != ""
        )

    def _progressed(self, revision: int) -> None:
        self._publisher.publish()
        if self._boot.entry.state == WorkerState.STARTING and self._task is None:
            if revision >= self._boot.minimum_revision:
                self._task = self._loop.create_task(self._accept())
            else:
                log.info("waiting for revision %d, at %d", self._boot.minimum_revision, revision)

    def _serve_api(self) -> None:
        if self._api_task is None:
            self._api_task = self._loop.create_task(self._listen_for_api())

    async def _listen_for_api(self) -> None:
        try:
            await self._api.listen(self._boot.api_sockets)
        except Exception:
            log.exception("worker %d cannot serve the control interface", self._boot.slot)

    async def _accept(self) -> None:
        try:
            await self._listen()
        except Exception:
            log.exception("worker %d cannot accept", self._boot.slot)
            self._loop.stop()

    async def _listen(self) -> None:
        boot = self._boot
        context = self._context
        context.start()
        self._publisher.publish()  # what was loaded from disk has not been told by a provider
        if self._monitor is not None:
            self._monitor.start()
        # First seen by those who wait for a revision, then caught up with what they have been told, then accepting.
        boot.entry.state = WorkerState.READY
        while self._is_behind():  # noqa: ASYNC110 - other processes write what it looks at
            await asyncio.sleep(CATCH_UP_CHECK)
        for sock in boot.sockets:
            # The loop calls listen() again, so it must be given the real backlog.
            server = await self._loop.create_server(
                lambda: Http1Server(context), sock=sock, backlog=boot.settings.backlog
            )
            self._servers.append(server)
        self._serve_api()
        self._accepts = True
        boot.control.send(READY)
        log.info("worker %d of generation %d is ready at revision %d", boot.slot, boot.generation, self._store.revision)

    def _is_behind(self) -> bool:
        """Tell whether others serve, or have been told of, what we do not have yet."""
        if self._last_good is not None and self._store.stale:
            return not self._last_good.may_serve(self._others())
        return self._store.revision < self._boot.entry.board.owed(self._boot.entry.store)

    # what the master says

    def _control_received(self) -> None:
        try:
            message = self._boot.control.recv(MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message in (DRAIN, b""):
            if not message:
                log.error("the master is gone")
                self._loop.remove_reader(self._boot.control.fileno())
            self.drain()

    def drain(self) -> None:
        """Accept nobody any more, finish what is under way, and stop the loop."""
        if not self._accepts or self._boot.entry.state != WorkerState.READY:
            self._loop.stop()
            return
        self._boot.entry.state = WorkerState.DRAINING
        self._provider.step_down()
        if self._monitor is not None:
            self._monitor.drain()
        if self._last_good is not None:
            self._last_good.stop()
        for server in self._servers:
            server.close()
        self._api.drain()
        self._context.drain("stop")
        self._drain_until = self._loop.time() + self._boot.settings.worker_shutdown_timeout
        self._loop.call_later(DRAIN_CHECK, self._check_drained, False)

    def _check_drained(self, was_idle: bool) -> None:
        is_idle = self._context.is_idle() and self._api.is_idle()
        if is_idle and was_idle:
            # Twice: the loop may have accepted a client that the context had not been told of yet.
            self._loop.stop()
        elif self._loop.time() > self._drain_until:
            log.warning("%d connections are cut after worker_shutdown_timeout", self._context.connections)
            self._loop.stop()
        else:
            self._loop.call_later(DRAIN_CHECK, self._check_drained, is_idle)

    def _reopen_logs(self) -> None:
        try:
            self._error_log.reopen()
        except OSError as error:
            log.error("cannot reopen the error log: %s", error)
        self._context.reopen_logs()

    # what the worker says

    def _beat(self) -> None:
        self._vitals.write()
        self._publisher.publish()
        self._loop.call_later(HEARTBEAT, self._beat)
