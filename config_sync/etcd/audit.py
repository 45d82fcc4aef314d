"""The audit: now and then, is what is live what is in etcd (etcd-http-gateway.md section 7.4)?

    RESTING ─► READING ─► COMPARING ─► RESTING          verified
                  │           └──────► AWAITING ─► RESTING   the cursor has moved after all
                  └──── doubt ────────────┘

*Integrity* reads, at the cursor's revision, the keys that were written since the last verified revision: each must
be here with the same ``mod_revision``, and the number of all keys must be the same. Keys that were touched by events
since the audit began are not compared. *Freshness* asks for anything newer than the cursor: if there is nothing, the
cursor may move up to the revision of the answer; if there is, the cursor must move by itself within a few seconds, or
the watch has lost something. A deep audit reads all keys with their values instead.

The machine does no I/O; it is told answers and times, and returns commands.
"""

from collections.abc import Callable, Iterable
from enum import Enum

import msgspec

from config_sync.etcd.messages import OUT_OF_RANGE, KeyValue, RangeAnswer
from config_sync.records import place_of

PATIENCE = 3.0  # seconds within which the cursor must move when there is something newer
SPREAD = 0.2  # of an interval, each way
RETRY = 5.0  # seconds to the next audit after one that came to nothing


class AuditState(Enum):
    """What the audit waits for."""

    RESTING = "resting"  # its time
    READING = "reading"  # a page of keys
    COMPARING = "comparing"  # whether anything newer exists
    AWAITING = "awaiting"  # the cursor


class ReadKeys(msgspec.Struct, frozen=True):
    """Ask for a page of keys at ``revision``, of those not older than ``min_mod_revision``."""

    key: bytes
    revision: int
    min_mod_revision: int
    with_values: bool


class ReadNewer(msgspec.Struct, frozen=True):
    """Ask, linearizably, for one key that is not older than ``min_mod_revision``."""

    min_mod_revision: int


class Verified(msgspec.Struct, frozen=True):
    """Everything up to ``revision`` is here."""

    revision: int


class SuspectMember(msgspec.Struct, frozen=True):
    """The watch has not brought what there is."""

    reason: str


class SuspectLoss(msgspec.Struct, frozen=True):
    """What is here is not what is there."""

    reason: str


Call = ReadKeys | ReadNewer
AuditCommand = Call | Verified | SuspectMember | SuspectLoss


class Live:
    """What the audit asks of what is live."""

    def __init__(
        self,
        cursor: Callable[[], int],
        resources: Callable[[], int],
        foreign: Callable[[], dict[str, int] | None],
        learn_foreign: Callable[[dict[str, int]], None],
        is_equal: Callable[[str, KeyValue, bool], bool],
    ) -> None:
        """Take functions.

        Args:
            cursor: the revision up to which everything is applied.
            resources: how many keys of resources are live.
            foreign: the mod revisions of all other keys, None when they are not known.
            learn_foreign: tells which they are.
            is_equal: whether a key is live as in a record; the last argument: compare the value as well.
        """
        self.cursor = cursor
        self.resources = resources
        self.foreign = foreign
        self.learn_foreign = learn_foreign
        self.is_equal = is_equal


class Audit:
    """The audits of one prefix; intervals in seconds, 0 for never."""

    def __init__(
        self, prefix: bytes, interval: float, deep_interval: float, live: Live, choose: Callable[[], float]
    ) -> None:
        self.state = AuditState.RESTING
        self.wake_at: float | None = None
        self.base = 0  # the last verified revision, 0: none; keys not written since need not be compared
        self._prefix = prefix
        self._interval = interval
        self._deep_interval = deep_interval
        self._live = live
        self._choose = choose
        self._deep_at: float | None = None
        self._is_deep = False
        self._revision = 0  # audited
        self._resources = 0  # at that revision
        self._foreign: int | None = None  # their number at that revision
        self._count: int | None = None  # of all keys at that revision, as etcd says
        self._found_resources = 0
        self._found_foreign: dict[str, int] = {}
        self._touched: set[str] = set()
        self._suspicions = 0  # in a row

    def start(self, now: float) -> None:
        """Begin to count time, when a watch is open."""
        if self._deep_at is None and self._deep_interval:
            self._deep_at = now + self._spread(self._deep_interval)
        self._rest(now, RETRY if self._suspicions else None)

    def stop(self) -> None:
        """Break off; a list or a reconnect has begun."""
        self.state = AuditState.RESTING
        self.wake_at = None

    def tick(self, now: float) -> list[AuditCommand]:
        """Do what is due at ``wake_at``."""
        if self.wake_at is None or now < self.wake_at:
            return []
        if self.state is AuditState.AWAITING:
            self._rest(now)
            self._suspicions += 1
            if self._suspicions == 1:
                return [SuspectMember(f"the watch has not brought what is newer than {self._revision}")]
            return [SuspectLoss(f"nothing has come that is newer than {self._revision}")]
        if self.state is not AuditState.RESTING:
            return []  # the caller has a time-out of its own
        return self._begin(now)

    def _begin(self, now: float) -> list[AuditCommand]:
        live = self._live
        foreign = live.foreign()
        self._is_deep = self._deep_at is not None and now >= self._deep_at
        self._revision = live.cursor()
        self._resources = live.resources()
        self._foreign = len(foreign) if foreign is not None else None
        self._count = None
        self._found_resources = 0
        self._found_foreign = {}
        self._touched = set()
        self._enter(AuditState.READING)
        return [ReadKeys(self._prefix, self._revision, self._minimum(), self._is_deep)]

    def _minimum(self) -> int:
        """Return from which revision on keys are read; all of them when it is not known what else there is."""
        return 0 if self._is_deep or self._foreign is None or not self.base else self.base + 1

    def events_applied(self, keys: Iterable[str], now: float) -> list[AuditCommand]:
        """Note what has changed since the audit began, and that the cursor moves."""
        if self.state is AuditState.RESTING:
            return []
        self._touched.update(keys)
        if self.state is AuditState.AWAITING and self._live.cursor() > self._revision:
            self._suspicions = 0
            self.base = self._revision
            self._rest(now)
        return []

    def page_received(self, answer: RangeAnswer, now: float) -> list[AuditCommand]:
        """Compare a page of keys."""
        if self.state is not AuditState.READING:
            return []
        if self._count is None:
            self._count = answer.count  # later pages count from their own first key on
        for record in answer.kvs:
            key = record.key[len(self._prefix) :].decode("utf-8", "surrogateescape")
            fault = self._compare(key, record)
            if fault:
                return self._doubt(fault, now)
        if answer.more and answer.kvs:
            return [ReadKeys(answer.kvs[-1].key + b"\0", self._revision, self._minimum(), self._is_deep)]
        fault = self._compare_counts()
        if fault:
            return self._doubt(fault, now)
        self._enter(AuditState.COMPARING)
        return [ReadNewer(self._revision + 1)]

    def _compare(self, key: str, record: KeyValue) -> str:
        if place_of(key) is None:
            self._found_foreign[key] = record.mod_revision
            known = self._live.foreign()
            if known is None or key in self._touched or known.get(key) == record.mod_revision:
                return ""
            return f"{key} at revision {record.mod_revision} was not noticed"
        self._found_resources += 1
        if key in self._touched or self._live.is_equal(key, record, self._is_deep):
            return ""
        return f"{key} is not live as of revision {record.mod_revision}"

    def _compare_counts(self) -> str:
        if self._minimum() == 0:
            if self._found_resources != self._resources:
                return f"{self._resources} keys are live and {self._found_resources} in etcd"
            if self._foreign is None and not any(key in self._touched for key in self._found_foreign):
                self._live.learn_foreign(self._found_foreign)
            return ""
        expected = self._resources + (self._foreign or 0)
        return "" if self._count == expected else f"{expected} keys are known and {self._count} in etcd"

    def newer_received(self, answer: RangeAnswer, now: float) -> list[AuditCommand]:
        """Move the cursor when there is nothing newer; else wait for the watch to move it."""
        if self.state is not AuditState.COMPARING:
            return []
        live = self._live
        if live.cursor() > self._revision:
            return self._passed(now)
        foreign = live.foreign()
        count = live.resources() + (len(foreign) if foreign is not None else 0)
        if not answer.kvs and (foreign is None or answer.count == count):
            return [*self._passed(now), Verified(answer.header.revision)]
        self._enter(AuditState.AWAITING)
        self.wake_at = now + PATIENCE
        return []

    def call_failed(self, code: int, message: str, now: float) -> list[AuditCommand]:
        """Try again later; a revision that etcd does not have yet means that it went back."""
        if self.state is AuditState.RESTING:
            return []
        if code == OUT_OF_RANGE and "future" in message:
            self._rest(now)
            return [SuspectLoss(f"etcd stands below revision {self._revision}")]
        self._rest(now, RETRY)
        return []

    def _passed(self, now: float) -> list[AuditCommand]:
        self._suspicions = 0
        self.base = self._revision
        if self._is_deep and self._deep_at is not None:
            self._deep_at = now + self._spread(self._deep_interval)
        self._rest(now)
        return []

    def _doubt(self, reason: str, now: float) -> list[AuditCommand]:
        self._rest(now)
        return [SuspectLoss(f"audit: {reason}")]

    def _rest(self, now: float, at_most: float | None = None) -> None:
        self._enter(AuditState.RESTING)
        self._touched = set()
        self._found_foreign = {}
        due = [self._spread(self._interval)] if self._interval else []
        if self._deep_at is not None:
            due.append(max(0.0, self._deep_at - now))
        if at_most is not None:
            due = [min([at_most * (0.5 + self._choose()), *due])] if due else []
        self.wake_at = now + min(due) if due else None

    def _enter(self, state: AuditState) -> None:
        self.state = state
        self.wake_at = None

    def _spread(self, interval: float) -> float:
        return interval * (1 - SPREAD + 2 * SPREAD * self._choose())
