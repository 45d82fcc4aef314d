"""Auditor: carries out what the audit wants to know, over a connection of its own beside the watch."""

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from config_sync.errors import StoreError
from config_sync.etcd import messages
from config_sync.etcd.audit import Audit, AuditCommand, AuditState, Call, Live, ReadKeys, ReadNewer
from config_sync.etcd.client import Endpoint, EtcdConnection
from config_sync.etcd.versions import known_losses
from config_sync.settings import EtcdSettings

log = logging.getLogger("propylon.sync")

PAGE_KEYS = 500  # with values; comparing a page takes about 1 ms
PAGE_KEYS_ONLY = 1_000
TIMEOUT = 30.0  # an answer; the audit has time
BUSY_DELAY = 0.1  # until the next look whether the store stands still


class ReadVersion(msgspec.Struct, frozen=True):
    """Ask a member for its version."""


class Renew(msgspec.Struct, frozen=True):
    """Ask for a new token, for a call that was refused."""

    call: Call


class Auditor:
    """Audits while the watch is open; ``endpoint`` tells where, ``found`` is told verdicts."""

    def __init__(
        self,
        settings: EtcdSettings,
        loop: asyncio.AbstractEventLoop,
        prefix: bytes,
        live: Live,
        choose: Callable[[], float],
        endpoint: Callable[[], Endpoint],
        is_busy: Callable[[], bool],
        tokens: "Tokens",
        found: Callable[[AuditCommand], None],
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._prefix = prefix
        self._endpoint = endpoint
        self._is_busy = is_busy
        self._tokens = tokens
        self._found = found
        self._audit = Audit(prefix, settings.audit_interval, settings.deep_audit_interval, live, choose)
        self._connection: EtcdConnection | None = None
        self._request: Call | ReadVersion | Renew | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_version_known = False
        self._is_renewed = False  # a new token has been asked for since a call last succeeded

    def base(self, revision: int) -> None:
        """Begin from a list at a revision, which has just been applied."""
        self._audit.base = revision

    def go_on(self) -> None:
        """Count time, as long as a watch is open."""
        if self._audit.wake_at is not None or self._audit.state is not AuditState.RESTING:
            return
        if not self._is_version_known and self._request is None:
            self._ask(ReadVersion())
        self._audit.start(self._loop.time())
        self._set_timer()

    def stop(self) -> None:
        """Break off until the watch is open again."""
        self._audit.stop()
        self._disconnect()
        self._set_timer()

    def events_applied(self, keys: Iterable[str]) -> None:
        """Note which keys have changed."""
        if self._audit.state is not AuditState.RESTING:
            self._carry_out(self._audit.events_applied(keys, self._loop.time()))

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        if self._request is not None:
            self._fail("no answer in time")
        elif self._is_busy():
            self._timer = self._loop.call_later(BUSY_DELAY, self._tick)
        else:
            self._carry_out(self._audit.tick(now))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_at = self._audit.wake_at
        if self._request is not None:
            wake_at = self._loop.time() + TIMEOUT
        if wake_at is not None:
            self._timer = self._loop.call_at(wake_at, self._tick)

    def _carry_out(self, commands: list[AuditCommand]) -> None:
        for command in commands:
            if isinstance(command, Call):
                self._ask(command)
            else:
                self._found(command)
        if self._audit.state is AuditState.RESTING and self._request is None:
            self._disconnect()  # the next audit is a long time away
        self._set_timer()

    # calls

    def _ask(self, request: "Call | ReadVersion | Renew") -> None:
        if self._connection is not None and not self._connection.is_reusable():
            self._disconnect()
        self._request = request
        if self._connection is None:
            self._connection = EtcdConnection(self._endpoint(), self)
            self._connection.open(self._loop)
        elif self._connection.is_open():
            self.connected(self._connection)

    def connected(self, connection: EtcdConnection) -> None:
        """Send what is to be asked."""
        request = self._request
        end = messages.prefix_end(self._prefix)
        if isinstance(request, ReadVersion):
            connection.request("/version", b"", "")
        elif isinstance(request, Renew):
            body = messages.authenticate_body(self._settings.user, self._settings.password)
            connection.request("/v3/auth/authenticate", body, "")
        elif isinstance(request, ReadKeys):
            limit = PAGE_KEYS if request.with_values else PAGE_KEYS_ONLY
            body = messages.keys_body(
                request.key, end, limit, request.revision, request.min_mod_revision, request.with_values
            )
            connection.request("/v3/kv/range", body, self._tokens.token)
        elif isinstance(request, ReadNewer):
            body = messages.keys_body(self._prefix, end, 1, 0, request.min_mod_revision, with_values=False)
            connection.request("/v3/kv/range", body, self._tokens.token)

    def answer_received(self, status: int, body: bytes) -> None:
        """Hand an answer to the audit."""
        request, self._request = self._request, None
        now = self._loop.time()
        if isinstance(request, ReadVersion):
            self._note_version(status, body)
            self._carry_out([])
            return
        try:
            if status != 200:
                commands = self._refused(request, messages.read_error(body))
            elif isinstance(request, Renew):
                self._tokens.token = messages.read_token(body)
                self._ask(request.call)
                commands = []
            elif isinstance(request, ReadKeys):
                self._is_renewed = False
                commands = self._audit.page_received(messages.read_range(body), now)
            else:
                commands = self._audit.newer_received(messages.read_range(body), now)
        except StoreError as error:
            log.info("audit: %s", error)
            commands = self._audit.call_failed(0, "", now)
        self._carry_out(commands)

    def _refused(self, request: "Call | Renew | None", error: messages.UnaryError) -> list[AuditCommand]:
        text = error.message or error.error
        about_access = error.code == messages.UNAUTHENTICATED or "user name is empty" in text
        if about_access and self._settings.user and isinstance(request, Call) and not self._is_renewed:
            self._is_renewed = True
            self._ask(Renew(request))
            return []
        log.info("audit: %s", text)
        return self._audit.call_failed(error.code, text, self._loop.time())

    def _note_version(self, status: int, body: bytes) -> None:
        self._is_version_known = True
        try:
            warning = known_losses(messages.read_version(body)) if status == 200 else None
        except StoreError:
            warning = None  # something in between answers; the calls themselves will tell
        if warning is not None:
            log.warning(warning)

    def lines_received(self, lines: list[bytes]) -> None:
        """Nothing comes in lines here."""

    def stream_ended(self) -> None:
        """Nothing is watched here."""

    def disconnected(self, connection: EtcdConnection, reason: str) -> None:
        """Try again later."""
        if connection is self._connection:
            self._connection = None
            if self._request is not None:
                self._fail(reason)

    def _fail(self, reason: str) -> None:
        log.info("audit: %s", reason)
        self._disconnect()
        self._carry_out(self._audit.call_failed(0, "", self._loop.time()))

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._request = None
        if connection is not None:
            connection.close()


class Tokens:
    """The token that all connections of a process use."""

    def __init__(self) -> None:
        self.token = ""
