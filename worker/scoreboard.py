"""The scoreboard: what master and workers know of each other, in memory that they share.

It is mapped before the first fork, and the master gives every worker an entry for its life: while a reload drains,
a slot has several workers. Every field is one aligned 64-bit word with one writer, so nobody locks.

An entry also has a record, which its worker publishes as a whole (``published``); so has the master.

    header (8 words) │ restarts (a word for each slot) │ entries (24 words each) │ records, the master's last
"""

import errno
import mmap
import time
from enum import IntEnum

from worker.published import RECORD_BYTES, Published
from worker.shared_state.memory import SharedState
from worker.shared_state.series import SharedSeries
from worker.upstream.health.table import HealthTable
from worker.upstream.shared_loads import SharedLoads

MAX_ENTRIES = 4_096
MAX_SLOTS = 1_024
_FIELDS = (
    "pid",
    "generation",
    "state",
    "revision",
    "connections",
    "requests",
    "accepted",
    "heartbeat_ns",
    "slot",
    "store",
    "born_ns",
    "rss",
    "idle",
    "active",
    "tunnels",
    "upstream_idle",
    "upstream_active",
)
_SEQUENCE = len(_FIELDS)
_ENTRY_WORDS = 24
_HEADER_WORDS = 8
_USED, _SLOTS, _CONFIRMED_NS, _PROMISED, _MASTER_SEQUENCE = range(5)
_RESTARTS_AT = _HEADER_WORDS
_ENTRIES_AT = _RESTARTS_AT + MAX_SLOTS


class WorkerState(IntEnum):
    """Where a worker stands in its life."""

    EXITED = 0
    STARTING = 1
    READY = 2
    DRAINING = 3


def _field(at: int) -> property:
    def read(entry: "Entry") -> int:
        return entry.words[entry.base + at]

    def write(entry: "Entry", value: int) -> None:
        entry.words[entry.base + at] = value

    return property(read, write)


class Entry:
    """One worker's line.

    ``born_ns`` and ``heartbeat_ns`` are of the monotonic clock, ``rss`` is in bytes. ``connections`` are those of
    clients, of which ``idle`` wait for a request, ``tunnels`` are upgraded, and ``active`` are all others. Revisions
    can be compared between entries whose ``store`` is the same.
    """

    __slots__ = ("_record", "base", "board", "number", "words")

    def __init__(self, board: "Scoreboard", number: int) -> None:
        self.board = board
        self.number = number
        self.words = board.words
        self.base = _ENTRIES_AT + number * _ENTRY_WORDS
        self._record = board.record(number, self.base + _SEQUENCE)

    (
        pid,
        generation,
        state,
        revision,
        connections,
        requests,
        accepted,
        heartbeat_ns,
        slot,
        store,
        born_ns,
        rss,
        idle,
        active,
        tunnels,
        upstream_idle,
        upstream_active,
    ) = map(_field, range(len(_FIELDS)))

    def publish(self, record: bytes) -> None:
        """Make a record visible to all processes, in place of the last; only for the entry's own worker.

        Raises:
            ValueError: it is longer than ``MAX_RECORD_BYTES``.
        """
        self._record.write(record)

    def published(self) -> bytes:
        """Return the last record, whole; empty when there is none."""
        return self._record.read()

    def __repr__(self) -> str:
        """Show pid, generation and state."""
        return f"<Entry pid {self.pid} generation {self.generation} {WorkerState(self.state).name}>"


class Scoreboard:
    """The entries of all workers, and what else they share: health and loads of upstreams, counters, notes, metrics."""

    def __init__(self, entries: int = MAX_ENTRIES) -> None:
        self.health = HealthTable(entries)
        # Pages that nobody has written to cost nothing.
        self._records_at = (_ENTRIES_AT + entries * _ENTRY_WORDS) * 8
        self._memory = memoryview(mmap.mmap(-1, self._records_at + (entries + 1) * RECORD_BYTES))
        self.words: memoryview[int] = self._memory[: self._records_at].cast("q")
        self._master = self.record(entries, _MASTER_SEQUENCE)
        self.loads = SharedLoads()
        self.state = SharedState()
        self.series = SharedSeries()
        self._free = list(reversed(range(entries)))

    # the master's part

    def allocate(self, slot: int, generation: int, store: int = 0) -> Entry:
        """Give an entry to a worker that is about to live.

        Raises:
            OSError: all are in use, most of them by workers that drain.
        """
        if not self._free:
            raise OSError(errno.EAGAIN, f"there are {MAX_ENTRIES} workers already, with those that drain")
        entry = Entry(self, self._free.pop())
        for at in range(_ENTRY_WORDS):
            self.words[entry.base + at] = 0
        entry.slot, entry.generation, entry.store = slot, generation, store
        entry.born_ns = time.monotonic_ns()
        entry.state = WorkerState.STARTING
        self.words[_USED] = max(self.words[_USED], entry.number + 1)
        self.loads.open(entry.number)
        self.state.open(entry.number)
        return entry

    def release(self, entry: Entry) -> None:
        """Take back the entry of a worker that is dead."""
        entry.state = WorkerState.EXITED
        self.loads.clear(entry.number)
        self.state.clear(entry.number)
        self._free.append(entry.number)

    def set_slots(self, count: int) -> None:
        """Tell how many slots there are."""
        self.words[_SLOTS] = count

    def count_restart(self, slot: int) -> None:
        """Count a worker that is forked because the one before it has died."""
        if slot < MAX_SLOTS:
            self.words[_RESTARTS_AT + slot] += 1

    def publish_master(self, record: bytes) -> None:
        """Make what the master says of itself visible to all processes; ValueError when it is too long."""
        self._master.write(record)

    # everybody's part

    def record(self, number: int, sequence_at: int) -> Published:
        """Return one of the records; the sequence is one of ``words``."""
        return Published(self._memory, self._records_at + number * RECORD_BYTES, self.words, sequence_at)

    def published_by_master(self) -> bytes:
        """Return what the master has last said of itself; empty when it has not yet."""
        return self._master.read()

    def restarts(self, slot: int) -> int:
        """Return how many workers of a slot were forked because the one before them had died."""
        return self.words[_RESTARTS_AT + slot] if slot < MAX_SLOTS else 0

    @property
    def used(self) -> int:
        """The entries with lower numbers than this have had a worker."""
        return self.words[_USED]

    @property
    def slots(self) -> int:
        """How many slots are to have a worker."""
        return self.words[_SLOTS]

    def living(self) -> list[Entry]:
        """Return the entries of the workers there are, by slot and generation."""
        entries = [Entry(self, number) for number in range(self.used)]
        found = [entry for entry in entries if entry.state != WorkerState.EXITED]
        return sorted(found, key=lambda entry: (entry.slot, entry.generation))

    def ready(self) -> list[Entry]:
        """Return the entries of the workers that accept clients."""
        return [entry for entry in self.living() if entry.state == WorkerState.READY]

    def promise(self, revision: int) -> None:
        """Note that somebody is told that every worker which accepts has this revision."""
        self.words[_PROMISED] = max(self.words[_PROMISED], revision)

    def owed(self, store: int = 0) -> int:
        """Return the revision below which a worker of a store must not begin to accept, or it would break a promise.

        No more than what others have: a store that was restored from a backup counts from a lower revision again.
        """
        highest = max((entry.revision for entry in self.ready() if entry.store == store), default=0)
        return min(self.words[_PROMISED], highest)

    def confirm(self) -> None:
        """Let every reload pass that a worker holds back now."""
        self.words[_CONFIRMED_NS] = time.monotonic_ns()

    @property
    def confirmed_at(self) -> float:
        """When somebody has last confirmed, in seconds of the monotonic clock; 0: never."""
        return self.words[_CONFIRMED_NS] / 1e9
