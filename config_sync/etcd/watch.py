"""The watch machine: what to ask etcd next, and what an answer means (etcd-http-gateway.md sections 0, 4 and 7).

                     ┌───────────── doubt: compacted, rollback, lost events ────────────┐
                     ▼                                                                  │
    IDLE ─► (AUTHENTICATING) ─► LISTING ─► OPENING ─► WATCHING ── end of a poll ─► OPENING
                     ▲             │          │          │
                     └── WAITING ◄─┴──────────┴──────────┘  failure: the next endpoint, later

It holds one number, the cursor: the highest revision whose events have all been applied. The cursor moves only
by a finished list, by the last event of a message that is not a fragment, and by a progress message of our own
watch; never by the revision in a header, which says where the store stands and not what has been sent. A watch
is resumed at the cursor, not behind it, and what is not newer is dropped: with that overlap a compaction that
has passed the cursor is always reported. On any doubt the prefix is listed again and compared.

The machine does no I/O. It is told what has happened and when, and returns commands in the order in which they
are to be carried out. At most one request is under way.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from config_sync.cache import Deletion, Entry, Event
from config_sync.etcd.messages import (
    OUT_OF_RANGE,
    PERMISSION_DENIED,
    UNAUTHENTICATED,
    KeyValue,
    RangeAnswer,
    WatchLine,
    WatchResult,
)

PAGE_KEYS = 1_000  # decoding a page takes about 4 ms (section 5)
OPEN_TIMEOUT = 5.0  # from asking for a watch to its "created": a lost create is silent (section 4)
POLL_GRACE = 5.0  # beyond the poll's own end, which the server should bring about
FIRST_DELAY = 0.05
LONGEST_DELAY = 1.0
DENIED_DELAY = 30.0
DEADLINE = "context deadline exceeded"  # the end of a poll


class State(Enum):
    """What the machine waits for."""

    IDLE = "idle"  # to be started
    AUTHENTICATING = "authenticating"  # a token
    LISTING = "listing"  # a page
    OPENING = "opening"  # the first message of a watch
    WATCHING = "watching"  # events
    WAITING = "waiting"  # the time of the next try


class Trigger(Enum):
    """What moves it."""

    AUTHENTICATE = "authenticate"
    LIST = "list"
    WATCH = "watch"
    OPENED = "opened"
    FAILED = "failed"


_ASK = {
    Trigger.AUTHENTICATE: State.AUTHENTICATING,
    Trigger.LIST: State.LISTING,
    Trigger.WATCH: State.OPENING,
    Trigger.FAILED: State.WAITING,
}
TRANSITIONS: dict[State, dict[Trigger, State]] = {
    State.IDLE: {Trigger.AUTHENTICATE: State.AUTHENTICATING, Trigger.LIST: State.LISTING},
    State.AUTHENTICATING: _ASK,
    State.LISTING: _ASK,
    State.OPENING: {**_ASK, Trigger.OPENED: State.WATCHING},
    State.WATCHING: _ASK,
    State.WAITING: {**_ASK},
}


@dataclass(frozen=True)
class Authenticate:
    """Ask for a token."""


@dataclass(frozen=True)
class ReadPage:
    """Ask for the keys from ``key`` on, at ``revision`` (0: the current one)."""

    key: bytes
    revision: int


@dataclass(frozen=True)
class OpenWatch:
    """Open a watch of the prefix; the server is to end it after ``poll`` seconds."""

    start_revision: int
    poll: int


@dataclass(frozen=True)
class Replace:
    """Make the store equal to a snapshot."""

    entries: dict[str, Entry]
    revision: int


@dataclass(frozen=True)
class Apply:
    """Apply the events of whole revisions; without events the store is known to be up to date."""

    events: list[Event]
    revision: int


@dataclass(frozen=True)
class Disconnect:
    """Close the connection: its stream is over, or cannot be trusted."""


@dataclass(frozen=True)
class UseNextEndpoint:
    """Talk to another member from now on."""


@dataclass(frozen=True)
class Report:
    """Say something: ``error`` when people should act, else a notice."""

    text: str
    error: bool = False


Command = Authenticate | ReadPage | OpenWatch | Replace | Apply | Disconnect | UseNextEndpoint | Report


@dataclass
class Limits:
    """Times in seconds, all bounds of what the machine waits for."""

    request: float = 30.0  # an answer to a call
    poll: float = 50.0  # one watch request
    longest_delay: float = LONGEST_DELAY


@dataclass
class _List:
    """A list under way."""

    revision: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)


class Watch:
    """The machine for one prefix."""

    def __init__(
        self,
        prefix: bytes,
        limits: Limits,
        has_credentials: bool,
        known: Callable[[str], tuple[int, int] | None],
        choose: Callable[[], float],
    ) -> None:
        """Set up a machine.

        Args:
            prefix: with its slash at the end.
            limits: how long it waits.
            has_credentials: whether a token can be had.
            known: gives create revision and version of a key that has been applied.
            choose: gives a random number from 0 to 1, for delays.
        """
        self.state = State.IDLE
        self.cursor = 0
        self.wake_at: float | None = None  # when tick() is due
        self._prefix = prefix
        self._limits = limits
        self._has_credentials = has_credentials
        self._known = known
        self._choose = choose
        self._cluster_id = 0
        self._failures = 0
        self._token_refused = False  # the token at hand has been refused once already
        self._needs_token = has_credentials
        self._needs_list = True
        self._list = _List()
        self._collected: list[Event] = []  # of fragments

    # what has happened

    def start(self, now: float) -> list[Command]:
        """Begin."""
        return self._ask(now)

    def token_received(self, now: float) -> list[Command]:
        """Go on with a token."""
        self._needs_token = False
        return self._ask(now)

    def page_received(self, answer: RangeAnswer, now: float) -> list[Command]:
        """Take a page of the list; with the last one the snapshot is whole."""
        commands: list[Command] = []
        if self._is_other_cluster(answer.header.cluster_id):
            commands.append(Report("another etcd cluster answers", error=True))
        begun_elsewhere = bool(commands) and self._list.revision
        self._cluster_id = answer.header.cluster_id
        if begun_elsewhere:
            return [*commands, *self._ask(now)]
        found = self._list
        if not found.revision:
            found.revision = answer.header.revision
            if found.revision < self.cursor:
                commands.append(Report(f"etcd went back from revision {self.cursor} to {found.revision}", error=True))
        for record in answer.kvs:
            entry = self._entry(record)
            found.entries[entry.key] = entry
        if answer.more and answer.kvs:
            self.wake_at = now + self._limits.request
            return [*commands, ReadPage(answer.kvs[-1].key + b"\0", found.revision)]
        self.cursor = found.revision
        self._needs_list = False
        self._token_refused = False
        self._list = _List()
        return [*commands, Replace(found.entries, self.cursor), *self._ask(now)]

    def call_failed(self, code: int, message: str, now: float) -> list[Command]:
        """Deal with a call that was refused (its HTTP status is not 200)."""
        if code == OUT_OF_RANGE and self.state is State.LISTING:
            # Compacted while paging: what has been read is of a revision that is gone.
            self._list = _List()
            return self._ask(now)
        if self.state is State.AUTHENTICATING:
            return self._fail(f"authentication failed: {message}", now, DENIED_DELAY)
        return self._refused(code, message, now)

    def line_received(self, line: WatchLine, now: float) -> list[Command]:
        """Take a message of the watch."""
        if self.state not in (State.OPENING, State.WATCHING):
            return []
        if line.error is not None:
            self._collected = []
            if DEADLINE in line.error.message:
                return self._ask(now)
            return self._refused(line.error.grpc_code, line.error.message, now)
        result = line.result
        if result is None:
            return self._fail("a watch message without result", now)
        if result.header.cluster_id and self._is_other_cluster(result.header.cluster_id):
            return self._doubt("another cluster answers", now, error=True)
        if result.canceled:
            return self._canceled(result, now)
        if result.created:
            return self._created(result, now)
        return self._events_received(result, now)

    def stream_ended(self, now: float) -> list[Command]:
        """Open the next poll: the server has ended this one in order."""
        self._collected = []
        if self.state is State.WATCHING:
            return self._ask(now)
        return self._fail("the watch ended before it had begun", now)

    def connection_lost(self, reason: str, now: float) -> list[Command]:
        """Try another member; what was collected of an unfinished revision is thrown away."""
        if self.state in (State.IDLE, State.WAITING):
            return []
        return self._fail(reason, now)

    def tick(self, now: float) -> list[Command]:
        """Do what is due at ``wake_at``."""
        if self.wake_at is None or now < self.wake_at:
            return []
        if self.state is State.WAITING:
            return self._ask(now)
        return self._fail(f"no answer in time while {self.state.value}", now)

    # decisions

    def _move(self, trigger: Trigger) -> None:
        self.state = TRANSITIONS[self.state][trigger]

    def _ask(self, now: float) -> list[Command]:
        """Ask for what is needed next: a token, the list, or events."""
        if self._needs_token:
            self._move(Trigger.AUTHENTICATE)
            self.wake_at = now + self._limits.request
            return [Authenticate()]
        if self._needs_list:
            self._move(Trigger.LIST)
            self._list = _List()
            self.wake_at = now + self._limits.request
            return [ReadPage(self._prefix, 0)]
        self._move(Trigger.WATCH)
        self._collected = []
        self.wake_at = now + OPEN_TIMEOUT
        return [OpenWatch(max(1, self.cursor), int(self._limits.poll))]

    def _fail(self, reason: str, now: float, delay: float | None = None) -> list[Command]:
        self._move(Trigger.FAILED)
        self._collected = []
        self._list = _List()
        if delay is None:
            delay = min(self._limits.longest_delay, FIRST_DELAY * 2 ** min(self._failures, 10))
        self._failures += 1
        self.wake_at = now + delay * (0.5 + self._choose())
        return [Disconnect(), UseNextEndpoint(), Report(reason, error=self._failures > 1)]

    def _refused(self, code: int, message: str, now: float) -> list[Command]:
        # 3.5.1 says "permission denied" for a bad token too, and 3.4 "user name is empty" for a missing one.
        about_access = code in (UNAUTHENTICATED, PERMISSION_DENIED) or "user name is empty" in message
        about_access = about_access or "auth token" in message or "permission denied" in message
        if about_access and self._has_credentials and not self._token_refused:
            self._token_refused = True
            self._needs_token = True
            return [Disconnect(), *self._ask(now)]
        return self._fail(message or f"refused with code {code}", now, DENIED_DELAY if about_access else None)

    def _doubt(self, reason: str, now: float, error: bool = False) -> list[Command]:
        self._needs_list = True
        return [Disconnect(), Report(f"{reason}; listing again", error), *self._ask(now)]

    def _canceled(self, result: WatchResult, now: float) -> list[Command]:
        # A canceled watch leaves the stream open and silent for ever: close it ourselves (section 4.5).
        if result.compact_revision:
            return self._doubt(f"compacted at {result.compact_revision}, beyond {self.cursor}", now)
        return self._refused(0, result.cancel_reason or "watch canceled", now)

    def _created(self, result: WatchResult, now: float) -> list[Command]:
        if result.header.revision < self.cursor:
            # A lagging member, or a store that went back: the list, which is linearizable, will tell.
            self._needs_list = True
            return self._fail(f"a member stands at {result.header.revision}, we at {self.cursor}", now)
        self._move(Trigger.OPENED)
        self._failures = 0
        self._token_refused = False
        self.wake_at = now + self._limits.poll + POLL_GRACE
        return []

    def _events_received(self, result: WatchResult, now: float) -> list[Command]:
        for event in result.events:
            if event.kv.mod_revision > self.cursor:
                key = self._key(event.kv.key)
                deleted = event.type == "DELETE"
                self._collected.append(Deletion(key, event.kv.mod_revision) if deleted else self._entry(event.kv))
        if result.fragment:
            return []
        events, self._collected = self._collected, []
        if not result.events:
            if result.header.revision > self.cursor and result.watch_id == 1 and not events:
                self.cursor = result.header.revision
                return [Apply([], self.cursor)]
            return []
        if not events:
            return []
        if self._has_gap(events):
            return self._doubt("etcd has left out events", now, error=True)
        self.cursor = events[-1].mod_revision
        return [Apply(events, self.cursor)]

    def _has_gap(self, events: list[Event]) -> bool:
        """Tell whether a version jumped: then events of that key were lost (section 7)."""
        versions: dict[str, tuple[int, int] | None] = {}
        for event in events:
            if isinstance(event, Deletion):
                versions[event.key] = None
                continue
            before = versions[event.key] if event.key in versions else self._known(event.key)
            if before is not None and before[0] == event.create_revision and event.version != before[1] + 1:
                return True
            versions[event.key] = event.create_revision, event.version
        return False

    def _is_other_cluster(self, cluster_id: int) -> bool:
        return self._cluster_id not in (0, cluster_id)

    def _key(self, key: bytes) -> str:
        return key[len(self._prefix) :].decode("utf-8", "surrogateescape")

    def _entry(self, record: KeyValue) -> Entry:
        return Entry(self._key(record.key), record.value, record.mod_revision, record.create_revision, record.version)
