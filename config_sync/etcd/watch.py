"""The watch machine: what to ask etcd next, and what an answer means (etcd-http-gateway.md sections 0, 4 and 7).

                                   ┌──────── doubt: compacted, lost events ─────────────────────────┐
                                   ▼                                                                │
    IDLE ─► (AUTHENTICATING) ─► LISTING ─► APPLYING ─► OPENING ─► WATCHING ── end of a poll ─► OPENING
                     ▲             │          │           │          │
                     └── WAITING ◄─┴──────────┴───────────┴──────────┘  failure: the next endpoint, later
                           │
                           └► COMPARING ─► OPENING, or LISTING when the store itself went back

It holds one number, the cursor: the highest revision whose events have all been applied. The cursor moves only
by a finished list, by the last event of a message that is not a fragment, and by a progress message of our own
watch; never by the revision in a header, which says where the store stands and not what has been sent. A watch
is resumed at the cursor, not behind it, and what is not newer is dropped: with that overlap a compaction that
has passed the cursor is always reported. On any doubt the prefix is listed again and compared. A member that
stands below the cursor may only lag: a linearizable read of the revision tells that from a store that went back.
A store that was wiped and has passed the cursor again cannot be told by revisions; an epoch key can tell it, which is
read after every reconnect.

What a list has brought is taken over in steps, by the shell; until that is done, or the guard has held it back, the
machine is APPLYING, and asks for nothing.

The machine does no I/O. It is told what has happened and when, and returns commands in the order in which they
are to be carried out. At most one request is under way.
"""

from collections.abc import Callable
from enum import Enum

import msgspec

from config_sync.etcd.messages import (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    OUT_OF_RANGE,
    PERMISSION_DENIED,
    UNAUTHENTICATED,
    WATCH_ID,
    KeyValue,
    RangeAnswer,
    WatchLine,
    WatchResult,
)
from config_sync.records import Deletion, Entry, Event, place_of

PAGE_KEYS = 500  # decoding a page takes about 2 ms (section 5)
OPEN_TIMEOUT = 5.0  # from asking for a watch to its "created": a lost create is silent (section 4)
POLL_GRACE = 5.0  # beyond the poll's own end, which the server should bring about
FIRST_DELAY = 0.05
LONGEST_DELAY = 1.0
FIRST_DENIED_DELAY = 0.5  # a member that lags refuses a token for a moment; a wrong password stays wrong
LONGEST_DENIED_DELAY = 30.0  # each authentication takes etcd 80 ms
HELD_DELAY = 5.0  # until a snapshot that the guard holds back is looked at again
RELIST_SPREAD = 0.5  # a compaction reaches every worker of a fleet at once; their lists are spread over this time
DEADLINE = "context deadline exceeded"  # the end of a poll


class State(Enum):
    """What the machine waits for."""

    IDLE = "idle"  # to be started
    AUTHENTICATING = "authenticating"  # a token
    LISTING = "listing"  # a page
    APPLYING = "applying"  # a snapshot to be taken over
    COMPARING = "comparing"  # the store's revision, and its epoch
    OPENING = "opening"  # the first message of a watch
    WATCHING = "watching"  # events
    WAITING = "waiting"  # the time of the next try


class Trigger(Enum):
    """What moves it."""

    AUTHENTICATE = "authenticate"
    LIST = "list"
    APPLY = "apply"
    COMPARE = "compare"
    WATCH = "watch"
    OPENED = "opened"
    WAIT = "wait"


_ASK = {
    Trigger.AUTHENTICATE: State.AUTHENTICATING,
    Trigger.LIST: State.LISTING,
    Trigger.COMPARE: State.COMPARING,
    Trigger.WATCH: State.OPENING,
    Trigger.WAIT: State.WAITING,
}
TRANSITIONS: dict[State, dict[Trigger, State]] = {
    State.IDLE: _ASK,
    State.AUTHENTICATING: _ASK,
    State.LISTING: {**_ASK, Trigger.APPLY: State.APPLYING},
    State.APPLYING: _ASK,
    State.COMPARING: _ASK,
    State.OPENING: {**_ASK, Trigger.OPENED: State.WATCHING},
    State.WATCHING: _ASK,
    State.WAITING: _ASK,
}


class Authenticate(msgspec.Struct, frozen=True):
    """Ask for a token."""


class ReadPage(msgspec.Struct, frozen=True):
    """Ask for the keys from ``key`` on, at ``revision`` (0: the current one)."""

    key: bytes
    revision: int


class ReadRevision(msgspec.Struct, frozen=True):
    """Ask for the revision the store stands at, linearizably, and for the epoch key if there is one."""


class OpenWatch(msgspec.Struct, frozen=True):
    """Open a watch of the prefix; the server is to end it after ``poll`` seconds."""

    start_revision: int
    poll: int


class Stage(msgspec.Struct, frozen=True):
    """Take these entries as a part of the snapshot that is coming; with ``is_first`` it begins."""

    entries: list[Entry]
    is_first: bool


class Complete(msgspec.Struct, frozen=True):
    """The snapshot is whole: make the store equal to it, and say how that went."""

    revision: int


class Apply(msgspec.Struct, frozen=True):
    """Apply the events of whole revisions; without events the store is known to be up to date."""

    events: list[Event]
    revision: int


class Disconnect(msgspec.Struct, frozen=True):
    """Close the connection: its stream is over, or cannot be trusted."""


class UseNextEndpoint(msgspec.Struct, frozen=True):
    """Talk to another member from now on."""


class Report(msgspec.Struct, frozen=True):
    """Say something: ``error`` when people should act, else a notice."""

    text: str
    error: bool = False


Request = Authenticate | ReadPage | ReadRevision | OpenWatch
Command = Request | Stage | Complete | Apply | Disconnect | UseNextEndpoint | Report


class Limits(msgspec.Struct):
    """Times in seconds, all bounds of what the machine waits for."""

    request: float = 30.0  # an answer to a call
    poll: float = 50.0  # one watch request
    longest_delay: float = LONGEST_DELAY


class _List(msgspec.Struct):
    """A list under way."""

    revision: int = 0
    foreign: dict[str, int] = msgspec.field(default_factory=dict)
    epoch: bytes = b""


class Watch:
    """The machine for one prefix."""

    def __init__(
        self,
        prefix: bytes,
        limits: Limits,
        has_credentials: bool,
        known: Callable[[str], tuple[int, int] | None],
        choose: Callable[[], float],
        epoch_key: str = "",
        resume_at: int = 0,
    ) -> None:
        """Set up a machine.

        Args:
            prefix: with its slash at the end.
            limits: how long it waits.
            has_credentials: whether a token can be had.
            known: gives create revision and version of a key that has been applied.
            choose: gives a random number from 0 to 1, for delays.
            epoch_key: the key, below the prefix, that tells one life of a store from the next; empty for none.
            resume_at: a revision up to which everything has been applied already; 0 to begin with a list.
        """
        self.state = State.IDLE
        self.cursor = resume_at
        self.foreign: dict[str, int] | None = None  # mod revisions of keys that are no resources; None: not known
        self.incidents = 0  # losses that were noticed
        self.wake_at: float | None = None  # when tick() is due
        self.failures = 0  # in a row, since a watch was last opened
        self._prefix = prefix
        self._limits = limits
        self._has_credentials = has_credentials
        self._known = known
        self._choose = choose
        self._cluster_id = 0
        self._token_refused = False  # the token at hand has been refused once already
        self._denials = 0  # in a row
        self._needs_token = has_credentials
        self._needs_list = not resume_at
        self._needs_revision = False  # a member stood below the cursor, or the store may be another one
        self._epoch_key = epoch_key
        self._epoch: bytes | None = None  # not known
        self._raft_term = 0
        self._poll_over = False  # the server has announced the end of the poll
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
        found = self._list
        if self._is_other_cluster(answer.header.cluster_id):
            commands.append(Report("another etcd cluster answers", error=True))
        self._cluster_id = answer.header.cluster_id or self._cluster_id
        if commands and found.revision:
            return [*commands, *self._ask(now)]  # this list was begun in the other one
        is_first = not found.revision
        if is_first:
            found.revision = answer.header.revision
            self._raft_term = answer.header.raft_term
            if found.revision < self.cursor:
                commands.append(Report(f"etcd went back from revision {self.cursor} to {found.revision}", error=True))
        page = [self._entry(record) for record in answer.kvs]
        for entry in page:
            if place_of(entry.key) is None:
                found.foreign[entry.key] = entry.mod_revision
                if entry.key == self._epoch_key:
                    found.epoch = entry.value
        if answer.more and page:
            self.wake_at = now + self._limits.request
            return [*commands, Stage(page, is_first), ReadPage(answer.kvs[-1].key + b"\0", found.revision)]
        self._move(Trigger.APPLY)
        self.wake_at = None
        return [*commands, Stage(page, is_first), Complete(found.revision)]

    def snapshot_taken(self, now: float) -> list[Command]:
        """Go on from the snapshot, which the store has become equal to."""
        found, self._list = self._list, _List()
        self.cursor = found.revision
        self.foreign = found.foreign
        self._epoch = found.epoch
        self._needs_list = self._needs_revision = False
        self._accepted()
        return self._ask(now)

    def snapshot_refused(self, reason: str, now: float) -> list[Command]:
        """Look again later at what has not been taken over."""
        self._wait(now + HELD_DELAY)
        return [Report(reason, error=True)]

    def revision_received(self, answer: RangeAnswer, now: float) -> list[Command]:
        """Tell a member that lags from a store that went back, now that a linearizable read has been answered."""
        header = answer.header
        self._needs_revision = False
        commands: list[Command] = []
        if self._epoch_key:
            epoch = answer.kvs[0].value if answer.kvs else b""
            if self._epoch is not None and epoch != self._epoch:
                commands.append(Report("the epoch key has changed; listing again", error=True))
            self._epoch = epoch
        if self._is_other_cluster(header.cluster_id) or header.revision < self.cursor or commands:
            self._needs_list = True
        return [*commands, *self._ask(now)]

    # what an audit has found (config_sync.etcd.audit)

    def verified(self, revision: int) -> list[Command]:
        """Move the cursor: a list has shown that nothing newer than it exists up to ``revision``."""
        if self.state is not State.WATCHING or self._collected or revision <= self.cursor:
            return []
        self.cursor = revision
        return [Apply([], revision)]

    def suspect_member(self, reason: str, now: float) -> list[Command]:
        """Watch at another member: this one has not sent what there is."""
        if self.state is not State.WATCHING:
            return []
        self.incidents += 1
        return self._fail(reason, now)

    def suspect_loss(self, reason: str, now: float) -> list[Command]:
        """List again: what has been applied is not what there is."""
        if self.state is not State.WATCHING:
            return []
        self.incidents += 1
        return self._doubt(reason, now, error=True)

    def call_failed(self, code: int, message: str, now: float) -> list[Command]:
        """Deal with a call that was refused (its HTTP status is not 200)."""
        if code == OUT_OF_RANGE and self.state is State.LISTING and self._list.revision:
            # Compacted while paging: what has been read is of a revision that is gone.
            return self._ask(now)
        if self.state is State.AUTHENTICATING:
            return self._not_authenticated(code, message, now)
        return self._refused(code, message, now)

    def line_received(self, line: WatchLine, now: float) -> list[Command]:
        """Take a message of the watch."""
        if self.state not in (State.OPENING, State.WATCHING):
            return []
        if line.error is not None:
            if DEADLINE in line.error.message:
                self._poll_over = True  # the end of the stream is on its way
                return []
            return self._refused(line.error.grpc_code, line.error.message, now)
        result = line.result
        if result is None:
            return self._fail("a watch message without result", now)
        if self._is_other_cluster(result.header.cluster_id):
            return self._doubt("another cluster answers", now, error=True)
        if result.canceled:
            return self._canceled(result, now)
        if result.created:
            return self._created(result, now)
        return self._events_received(result, now)

    def stream_ended(self, now: float) -> list[Command]:
        """Open the next poll when this one was over; any other end of a stream is a failure."""
        if self.state is State.WATCHING and self._poll_over:
            return self._ask(now)
        return self._fail("the watch ended before its time", now)

    def connection_lost(self, reason: str, now: float) -> list[Command]:
        """Try another member; what was collected of an unfinished revision is thrown away."""
        if self.state in (State.IDLE, State.WAITING, State.APPLYING):
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
        """Ask for what is needed next: a token, the list, the store's revision, or events."""
        if self._needs_token:
            self._move(Trigger.AUTHENTICATE)
            self.wake_at = now + self._limits.request
            return [Authenticate()]
        if self._needs_list:
            self._move(Trigger.LIST)
            self._list = _List()
            self.wake_at = now + self._limits.request
            return [ReadPage(self._prefix, 0)]
        if self._needs_revision:
            self._move(Trigger.COMPARE)
            self.wake_at = now + self._limits.request
            return [ReadRevision()]
        self._move(Trigger.WATCH)
        self._collected = []
        self._poll_over = False
        self.wake_at = now + OPEN_TIMEOUT
        # A poll of 0 s would have no end.
        return [OpenWatch(max(1, self.cursor), max(1, int(self._limits.poll)))]

    def _fail(self, reason: str, now: float, delay: float | None = None) -> list[Command]:
        if delay is None:
            delay = min(self._limits.longest_delay, FIRST_DELAY * 2 ** min(self.failures, 10))
        self.failures += 1
        self._needs_revision = self._needs_revision or bool(self._epoch_key)
        self._wait(now + delay * (0.5 + self._choose()))
        return [Disconnect(), UseNextEndpoint(), Report(reason, error=self.failures > 1)]

    def _wait(self, until: float) -> None:
        self._move(Trigger.WAIT)
        self._collected = []
        self._list = _List()
        self.wake_at = until

    def _not_authenticated(self, code: int, message: str, now: float) -> list[Command]:
        if code == FAILED_PRECONDITION:
            # Credentials are configured, but etcd asks nobody for them.
            self._needs_token = False
            return [Report(message), *self._ask(now)]
        reason = f"authentication failed: {message}"
        if code in (INVALID_ARGUMENT, UNAUTHENTICATED, PERMISSION_DENIED):
            return self._denied(reason, now)
        return self._fail(reason, now)

    def _refused(self, code: int, message: str, now: float) -> list[Command]:
        # 3.5.1 says "permission denied" for a bad token too, and 3.4 "user name is empty" for a missing one.
        about_access = code in (UNAUTHENTICATED, PERMISSION_DENIED) or "user name is empty" in message
        about_access = about_access or "auth token" in message or "permission denied" in message
        if about_access and self._has_credentials and not self._token_refused:
            self._token_refused = True
            self._needs_token = True
            return [Disconnect(), *self._ask(now)]
        reason = message or f"refused with code {code}"
        return self._denied(reason, now) if about_access else self._fail(reason, now)

    def _denied(self, reason: str, now: float) -> list[Command]:
        """Ask another member, with another token: one that was refused twice never becomes good again."""
        delay = min(LONGEST_DENIED_DELAY, FIRST_DENIED_DELAY * 2 ** min(self._denials, 10))
        self._denials += 1
        self._token_refused = False
        self._needs_token = self._has_credentials
        return self._fail(reason, now, delay)

    def _accepted(self) -> None:
        self._token_refused = False
        self._denials = 0

    def _doubt(self, reason: str, now: float, error: bool = False) -> list[Command]:
        self._needs_list = True
        return [Disconnect(), Report(f"{reason}; listing again", error), *self._ask(now)]

    def _canceled(self, result: WatchResult, now: float) -> list[Command]:
        # A canceled watch leaves the stream open and silent for ever: close it ourselves (section 4.5).
        if result.compact_revision:
            self._needs_list = True
            self._wait(now + RELIST_SPREAD * self._choose())
            text = f"compacted at {result.compact_revision}, beyond {self.cursor}; listing again"
            return [Disconnect(), Report(text)]
        return self._refused(0, result.cancel_reason or "watch canceled", now)

    def _created(self, result: WatchResult, now: float) -> list[Command]:
        if self.state is State.WATCHING:
            return self._fail("a watch was created twice", now)
        if result.header.revision < self.cursor:
            self._needs_revision = True
            return self._fail(f"a member stands at {result.header.revision}, we at {self.cursor}", now)
        if result.header.raft_term < self._raft_term:
            return self._doubt(f"the raft term went back from {self._raft_term}", now, error=True)
        self._raft_term = result.header.raft_term
        self._move(Trigger.OPENED)
        self.failures = 0
        self._accepted()
        self.wake_at = now + max(1, int(self._limits.poll)) + POLL_GRACE
        return []

    def _events_received(self, result: WatchResult, now: float) -> list[Command]:
        for event in result.events:
            if event.kv.mod_revision > self.cursor:
                key = self._key(event.kv.key)
                deleted = event.type == "DELETE"
                self._collected.append(Deletion(key, event.kv.mod_revision) if deleted else self._entry(event.kv))
        if not result.events:
            return self._progressed(result)
        if result.fragment:
            return []
        events, self._collected = self._collected, []
        if not events:
            return []
        if self._has_gap(events):
            self.incidents += 1
            return self._doubt("etcd has left out events", now, error=True)
        if self._notes_new_epoch(events):
            return self._doubt("the epoch key has changed", now, error=True)
        self.cursor = events[-1].mod_revision
        return [Apply(events, self.cursor)]

    def _notes_new_epoch(self, events: list[Event]) -> bool:
        """Keep account of keys that are no resources; tell whether the epoch key has another value."""
        for event in events:
            if place_of(event.key) is not None:
                continue
            is_put = isinstance(event, Entry)
            if self.foreign is not None:
                if is_put:
                    self.foreign[event.key] = event.mod_revision
                else:
                    self.foreign.pop(event.key, None)
            if event.key == self._epoch_key:
                before, self._epoch = self._epoch, event.value if isinstance(event, Entry) else b""
                if before not in (None, self._epoch):
                    return True
        return False

    def _progressed(self, result: WatchResult) -> list[Command]:
        if self._collected or result.watch_id != WATCH_ID or result.header.revision <= self.cursor:
            return []
        self.cursor = result.header.revision
        return [Apply([], self.cursor)]

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
        return cluster_id != 0 and self._cluster_id not in (0, cluster_id)

    def _key(self, key: bytes) -> str:
        return key[len(self._prefix) :].decode("utf-8", "surrogateescape")

    def _entry(self, record: KeyValue) -> Entry:
        return Entry(self._key(record.key), record.value, record.mod_revision, record.create_revision, record.version)
