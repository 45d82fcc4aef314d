"""EtcdProvider: carries out what the watch machine decides.

One timer of the event loop tells the machine the time; one connection to one member carries its requests; what
comes back goes through the machine into the store. There is nothing to decide here.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from config_sync.cache import ConfigStore, place_of
from config_sync.errors import StoreError
from config_sync.etcd import messages
from config_sync.etcd.client import Endpoint, EtcdConnection
from config_sync.etcd.watch import (
    PAGE_KEYS,
    Apply,
    Authenticate,
    Command,
    Disconnect,
    Limits,
    OpenWatch,
    Prepare,
    ReadPage,
    ReadRevision,
    Replace,
    Report,
    Request,
    UseNextEndpoint,
    Watch,
)
from config_sync.provider import ProviderState
from config_sync.settings import EtcdSettings

log = logging.getLogger("propylon.sync")

REPEAT_SECONDS = 30.0  # the same trouble is logged once in this time


class EtcdProvider:
    """Configuration from etcd; one per process."""

    def __init__(
        self,
        settings: EtcdSettings,
        store: ConfigStore,
        loop: asyncio.AbstractEventLoop,
        on_synced: Callable[[int], None],
        on_progress: Callable[[int], None],
    ) -> None:
        """Prepare; see ``config_sync.provider`` for the callbacks.

        Raises:
            SettingsError: an address or certificate file is of no use.
        """
        self._settings = settings
        self._store = store
        self._loop = loop
        self._on_synced = on_synced
        self._on_progress = on_progress
        self._prefix = settings.prefix.rstrip("/").encode() + b"/"
        self._endpoints = [Endpoint(url, settings) for url in settings.host]
        self._endpoint = random.randrange(len(self._endpoints))  # noqa: S311 - spreads the workers
        self._watch = Watch(
            self._prefix,
            Limits(settings.timeout, settings.watch_timeout, min(1.0, settings.resync_delay)),
            bool(settings.user),
            self._known,
            random.random,
        )
        self._connection: EtcdConnection | None = None
        self._request: Request | None = None  # the one under way
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = 0.0  # when the timer is due
        self._token = ""
        self._synced = False
        self._stopped = False
        self._reported: dict[str, float] = {}
        self._last_error = ""

    # the provider's interface

    def start(self) -> None:
        """Begin to list and watch."""
        self._carry_out(self._watch.start(self._loop.time()))

    def stop(self) -> None:
        """Close the connection and forget the timer."""
        self._stopped = True
        self._disconnect()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def state(self) -> ProviderState:
        """Tell what is under way."""
        endpoint = self._endpoints[self._endpoint].url
        error = self._last_error if self._watch.failures else ""
        return ProviderState(self._watch.state.value, endpoint, self._watch.cursor, error)

    # what the connection brings

    def connected(self, connection: EtcdConnection) -> None:
        """Send what waits for the connection."""
        if self._request is not None:
            self._send(connection, self._request)

    def answer_received(self, status: int, body: bytes) -> None:
        """Hand an answer to the machine."""
        now = self._loop.time()
        request, self._request = self._request, None
        try:
            if status != 200:
                error = messages.read_error(body)
                text = error.message or error.error or f"HTTP status {status}"
                commands = self._watch.call_failed(error.code, text, now)
            elif isinstance(request, Authenticate):
                self._token = messages.read_token(body)
                commands = self._watch.token_received(now)
            elif isinstance(request, ReadRevision):
                commands = self._watch.revision_received(messages.read_range(body).header, now)
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
            try:
                commands = self._watch.line_received(messages.read_line(line), self._loop.time())
            except StoreError as error:
                commands = self._watch.connection_lost(str(error), self._loop.time())
            self._carry_out(commands)

    def stream_ended(self) -> None:
        """Tell the machine."""
        self._request = None
        self._carry_out(self._watch.stream_ended(self._loop.time()))

    def disconnected(self, connection: EtcdConnection, reason: str) -> None:
        """Tell the machine."""
        if connection is self._connection:
            self._connection = None
            self._request = None
            self._carry_out(self._watch.connection_lost(reason, self._loop.time()))

    # what the machine wants

    def _carry_out(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if self._stopped:
                return  # by a callback, in the middle
            if isinstance(command, Request):
                self._ask(command)
            elif isinstance(command, Prepare):
                self._store.prepare(command.entries)
            elif isinstance(command, Apply):
                self._store.apply(command.events, command.revision)
                self._on_progress(command.revision)
            elif isinstance(command, Replace):
                self._replace(command)
            elif isinstance(command, Disconnect):
                self._disconnect()
            elif isinstance(command, UseNextEndpoint):
                self._endpoint = (self._endpoint + 1) % len(self._endpoints)
            else:
                self._report(command)
        self._set_timer()

    def _replace(self, command: Replace) -> None:
        self._store.replace(command.entries, command.revision)
        if not self._synced:
            self._synced = True
            routes = len(self._store.caches["routes"].items)
            if not routes:
                log.warning("there are no routes under %s", self._prefix.decode())
            log.info("configuration loaded at revision %d: %d routes", command.revision, routes)
            self._on_synced(command.revision)
        self._on_progress(command.revision)

    def _ask(self, request: Request) -> None:
        if self._connection is not None and not self._connection.is_reusable():
            self._disconnect()
        self._request = request
        if self._connection is None:
            self._connection = EtcdConnection(self._endpoints[self._endpoint], self)
            self._connection.open(self._loop)
        elif self._connection.is_open():
            self._send(self._connection, request)

    def _send(self, connection: EtcdConnection, request: Request) -> None:
        if isinstance(request, OpenWatch):
            body = messages.watch_body(self._prefix, messages.prefix_end(self._prefix), request.start_revision)
            connection.request("/v3/watch", body, self._token, watching=True, poll=request.poll)
        elif isinstance(request, ReadPage):
            end = messages.prefix_end(self._prefix)
            body = messages.range_body(request.key, end, PAGE_KEYS, request.revision)
            connection.request("/v3/kv/range", body, self._token)
        elif isinstance(request, ReadRevision):
            connection.request("/v3/kv/range", messages.revision_body(self._prefix), self._token)
        else:
            body = messages.authenticate_body(self._settings.user, self._settings.password)
            connection.request("/v3/auth/authenticate", body, "")

    def _disconnect(self) -> None:
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
