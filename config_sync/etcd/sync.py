"""EtcdProvider: carries out what the watch machine decides.

One timer of the event loop tells the machine the time; one connection to one member carries its requests; what
comes back goes through the machine into the store. There is nothing to decide here. What takes long, a snapshot or a
mass of events, is done in steps; whatever comes meanwhile waits, so that the machine always sees what it has applied.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Sequence

from config_sync.cache import ConfigStore, Incoming, place_of
from config_sync.errors import StoreError
from config_sync.etcd import messages
from config_sync.etcd.audit import AuditCommand, Live, SuspectLoss, SuspectMember, Verified
from config_sync.etcd.auditor import Auditor, Tokens
from config_sync.etcd.client import Endpoint, EtcdConnection
from config_sync.etcd.endpoints import Endpoints
from config_sync.etcd.messages import KeyValue
from config_sync.etcd.watch import (
    PAGE_KEYS,
    Apply,
    Authenticate,
    Command,
    Complete,
    Disconnect,
    Limits,
    OpenWatch,
    ReadPage,
    ReadRevision,
    Report,
    Request,
    Stage,
    State,
    UseNextEndpoint,
    Watch,
)
from config_sync.provider import ProviderState
from config_sync.settings import EtcdSettings
from config_sync.steps import Stepper

log = logging.getLogger("propylon.sync")

REPEAT_SECONDS = 30.0  # the same trouble is logged once in this time
CALM = (State.OPENING, State.WATCHING)  # states in which an audit may go on


class EtcdProvider:
    """Configuration from etcd; one per process."""

    def __init__(
        self,
        settings: EtcdSettings,
        store: ConfigStore,
        loop: asyncio.AbstractEventLoop,
        on_progress: Callable[[int], None],
    ) -> None:
        """Prepare; see ``config_sync.provider`` for the callback.

        A store that is not stale and has a revision is taken to be equal to etcd at that revision: the watch
        goes on from there. With an epoch key it is compared first, since nobody knows of which epoch it is.

        Raises:
            SettingsError: an address or certificate file is of no use.
        """
        self._settings = settings
        self._store = store
        self._loop = loop
        self._on_progress = on_progress
        self._prefix = settings.prefix.rstrip("/").encode() + b"/"
        self._members = [Endpoint(url, settings) for url in settings.host]
        self._endpoints = Endpoints(len(self._members), settings.health_check_timeout, random.random)
        self._watch = Watch(
            self._prefix,
            Limits(settings.timeout, settings.watch_timeout, min(1.0, settings.resync_delay)),
            bool(settings.user),
            self._known,
            random.random,
            settings.epoch_key,
            0 if store.stale or settings.epoch_key else store.revision,
        )
        self._tokens = Tokens()
        self._auditor = Auditor(
            settings,
            loop,
            self._prefix,
            Live(
                lambda: self._watch.cursor,
                lambda: sum(len(cache.items) for cache in store.caches.values()),
                lambda: self._watch.foreign,
                self._learn_foreign,
                self._is_equal,
            ),
            random.random,
            self._member,
            lambda: self._stepper.is_busy(),
            self._tokens,
            self._audited,
        )
        self._stepper = Stepper(loop)
        self._incoming: Incoming | None = None
        self._later: deque[Callable[[], None]] = deque()  # what has come while steps were being done
        self._connection: EtcdConnection | None = None
        self._request: Request | None = None  # the one under way
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = 0.0  # when the timer is due
        self._synced = store.revision > 0
        self._stopped = False
        self._reported: dict[str, float] = {}
        self._last_error = ""

    # the provider's interface

    def start(self) -> None:
        """Begin to list and watch."""
        self._carry_out(self._watch.start(self._loop.time()))

    def stop(self) -> None:
        """Close the connections and forget the timers."""
        self._stopped = True
        self._stepper.stop()
        self._auditor.stop()
        self._disconnect()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def step_down(self) -> None:
        """Nobody relies on this one."""

    def stand_again(self) -> None:
        """Nobody relies on this one."""

    def state(self) -> ProviderState:
        """Tell what is under way."""
        error = self._last_error if self._watch.failures or self._store.held is not None else ""
        return ProviderState(
            self._watch.state.value, self._member().url, self._watch.cursor, error, self._watch.incidents
        )

    def _member(self) -> Endpoint:
        return self._members[self._endpoints.current]

    # what the connection brings

    def connected(self, connection: EtcdConnection) -> None:
        """Send what waits for the connection."""
        if self._request is not None:
            self._send(connection, self._request)

    def answer_received(self, status: int, body: bytes) -> None:
        """Hand an answer to the machine."""
        self._when_idle(lambda: self._take_answer(status, body))

    def _take_answer(self, status: int, body: bytes) -> None:
        now = self._loop.time()
        request, self._request = self._request, None
        try:
            if status != 200:
                error = messages.read_error(body)
                text = error.message or error.error or f"HTTP status {status}"
                commands = self._watch.call_failed(error.code, text, now)
            elif isinstance(request, Authenticate):
                self._tokens.token = messages.read_token(body)
                commands = self._watch.token_received(now)
            elif isinstance(request, ReadRevision):
                commands = self._watch.revision_received(messages.read_range(body), now)
            elif isinstance(request, ReadPage):
                commands = self._watch.page_received(messages.read_range(body), now)
            else:
                commands = self._watch.connection_lost("an answer that nobody asked for", now)
        except StoreError as error:
            commands = self._watch.connection_lost(str(error), now)
        self._carry_out(commands)

    def lines_received(self, lines: list[bytes]) -> None:
        """Hand messages of the watch to the machine."""
        connection = self._connection
        for line in lines:
            if self._connection is not connection or self._stopped:
                return  # the machine has given this stream up
            if self._later or self._stepper.is_busy():
                self._when_idle(lambda line=line: self._take_line(line))  # type: ignore[misc]
            else:
                self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        now = self._loop.time()
        try:
            commands = self._watch.line_received(messages.read_line(line), now)
        except StoreError as error:
            commands = self._watch.connection_lost(str(error), now)
        self._carry_out(commands)

    def stream_ended(self) -> None:
        """Tell the machine."""
        self._when_idle(self._take_end)

    def _take_end(self) -> None:
        self._request = None
        self._carry_out(self._watch.stream_ended(self._loop.time()))

    def disconnected(self, connection: EtcdConnection, reason: str) -> None:
        """Tell the machine; what has come and was not looked at will come again."""
        if connection is self._connection:
            self._later.clear()
            self._connection = None
            self._request = None
            self._carry_out(self._watch.connection_lost(reason, self._loop.time()))

    def _when_idle(self, take: Callable[[], None]) -> None:
        """Take something now, or in its turn when the steps have been done."""
        if self._later or self._stepper.is_busy():
            if not self._later and self._connection is not None:
                self._connection.pause()
            self._later.append(take)
        else:
            take()

    def _go_on(self) -> None:
        """Take what has come while steps were being done."""
        while self._later and not self._stepper.is_busy() and not self._stopped:
            self._later.popleft()()
        if not self._later and self._connection is not None:
            self._connection.resume()

    # what the machine wants

    def _carry_out(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if self._stopped:
                return  # by a callback, in the middle
            if isinstance(command, Request):
                self._ask(command)
            elif isinstance(command, Stage):
                self._stage(command)
            elif isinstance(command, Complete):
                self._complete(command.revision)
            elif isinstance(command, Apply):
                self._apply(command)
            elif isinstance(command, Disconnect):
                self._disconnect()
            elif isinstance(command, UseNextEndpoint):
                self._endpoints.failed(self._loop.time())
            else:
                self._report(command)
        self._follow_state()
        self._set_timer()

    def _follow_state(self) -> None:
        if self._watch.state is State.WATCHING:
            self._endpoints.succeeded()
            self._auditor.go_on()
        elif self._watch.state not in CALM:
            self._auditor.stop()

    def _apply(self, command: Apply) -> None:
        events, revision = command.events, command.revision
        self._auditor.events_applied([event.key for event in events])
        if self._store.fits_one_step(events):
            self._store.apply(events, revision)
            self._on_progress(revision)
        else:
            self._stepper.run(self._store.applying(events, revision), lambda: self._applied(revision))

    def _applied(self, revision: int) -> None:
        self._on_progress(revision)
        self._go_on()

    def _stage(self, command: Stage) -> None:
        if command.is_first:
            self._drop_incoming()
            self._incoming = self._store.receive()
        if self._incoming is not None:
            self._stepper.run(self._incoming.add(command.entries), self._go_on)

    def _complete(self, revision: int) -> None:
        incoming = self._incoming
        if incoming is not None:
            self._stepper.run(incoming.complete(revision), lambda: self._completed(incoming, revision))

    def _completed(self, incoming: Incoming, revision: int) -> None:
        if incoming is not self._incoming:
            return
        self._incoming = None
        now = self._loop.time()
        held = self._store.held
        if incoming.is_done:
            self._auditor.base(revision)
            self._log_snapshot(incoming, revision)
            self._on_progress(revision)
            self._carry_out(self._watch.snapshot_taken(now))
        elif held is not None:
            reason = f"this would remove {held.removes} of {held.of} routes and is held back; confirm it if it is meant"
            self._carry_out(self._watch.snapshot_refused(f"revision {revision}: {reason}", now))
        else:
            self._carry_out(self._watch.snapshot_refused(f"revision {revision} could not be taken over", now))
        self._go_on()

    def _log_snapshot(self, incoming: Incoming, revision: int) -> None:
        if self._synced:
            log.info("etcd: read again at revision %d, %d differences", revision, incoming.differences)
            return
        self._synced = True
        routes = len(self._store.caches["routes"].items)
        if not routes:
            log.warning("there are no routes under %s", self._prefix.decode())
        log.info("configuration loaded at revision %d: %d routes", revision, routes)

    def _drop_incoming(self) -> None:
        if self._incoming is not None:
            self._incoming.drop()
            self._incoming = None

    # what the audit wants

    def _audited(self, command: AuditCommand) -> None:
        now = self._loop.time()
        if isinstance(command, Verified):
            self._carry_out(self._watch.verified(command.revision))
        elif isinstance(command, SuspectMember):
            self._carry_out(self._watch.suspect_member(command.reason, now))
        elif isinstance(command, SuspectLoss):
            self._carry_out(self._watch.suspect_loss(command.reason, now))

    def _is_equal(self, key: str, record: KeyValue, with_value: bool) -> bool:
        place = place_of(key)
        item = self._store.caches[place[0]].items.get(place[1]) if place is not None else None
        if item is None or item.mod_revision != record.mod_revision:
            return False
        return not with_value or item.raw == record.value

    def _learn_foreign(self, foreign: dict[str, int]) -> None:
        self._watch.foreign = foreign

    def _ask(self, request: Request) -> None:
        if self._connection is not None and not self._connection.is_reusable():
            self._close()
        self._request = request
        if self._connection is None:
            self._connection = EtcdConnection(self._member(), self)
            self._connection.open(self._loop)
        elif self._connection.is_open():
            self._send(self._connection, request)

    def _send(self, connection: EtcdConnection, request: Request) -> None:
        if isinstance(request, OpenWatch):
            body = messages.watch_body(self._prefix, messages.prefix_end(self._prefix), request.start_revision)
            connection.request("/v3/watch", body, self._tokens.token, watching=True, poll=request.poll)
        elif isinstance(request, ReadPage):
            end = messages.prefix_end(self._prefix)
            body = messages.range_body(request.key, end, PAGE_KEYS, request.revision)
            connection.request("/v3/kv/range", body, self._tokens.token)
        elif isinstance(request, ReadRevision):
            epoch_key = self._settings.epoch_key
            asked = messages.key_body(self._prefix + epoch_key.encode()) if epoch_key else None
            connection.request("/v3/kv/range", asked or messages.revision_body(self._prefix), self._tokens.token)
        else:
            body = messages.authenticate_body(self._settings.user, self._settings.password)
            connection.request("/v3/auth/authenticate", body, "")

    def _disconnect(self) -> None:
        self._later.clear()
        self._drop_incoming()
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        self._request = None
        if connection is not None:
            connection.close()

    def _report(self, report: Report) -> None:
        if report.error:
            self._last_error = report.text
        now = self._loop.time()
        if now - self._reported.get(report.text, -REPEAT_SECONDS) < REPEAT_SECONDS:
            return
        if len(self._reported) > 100:
            self._reported.clear()
        self._reported[report.text] = now
        log.log(logging.ERROR if report.error else logging.INFO, "etcd: %s", report.text)

    def _set_timer(self) -> None:
        wake_at = self._watch.wake_at
        if self._timer is not None:
            if self._wakes_at == wake_at:
                return  # as with every event of a watch
            self._timer.cancel()
            self._timer = None
        if wake_at is not None and not self._stopped:
            self._wakes_at = wake_at
            self._timer = self._loop.call_at(wake_at, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._carry_out(self._watch.tick(self._loop.time()))

    def _known(self, key: str) -> tuple[int, int] | None:
        place = place_of(key)
        item = self._store.caches[place[0]].items.get(place[1]) if place is not None else None
        return None if item is None else (item.create_revision, item.version)
