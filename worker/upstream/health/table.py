"""HealthTable: the states of all targets, in memory that the master maps before the first fork.

    lease │ journal │ keys of targets │ their statuses │ a ring of reports for each worker

Every field is one aligned 64-bit word with one writer at a time, so nobody locks. The lease's holder, the prober,
writes all but the rings; each worker writes its own ring (``reports``).

A target has a slot within ``WINDOW`` places from where its key hashes to, so anybody finds it, and a free place needs
no mark. The journal tells which slots have changed: an entry is written before the sequence moves, and names its
position, so one that is not there yet, or no longer, is recognised.
"""

import mmap

from worker.upstream.health.machine import NEW, State, Status
from worker.upstream.health.reports import RING_WORDS, ReportRing

TARGETS = 32_768  # places; the table works well up to a quarter of them
WINDOW = 32
JOURNAL = 1_024
NOWHERE = -1
_STATES = tuple(State)  # by their number; an Enum's look-up takes longer
_LEASE_WORDS = 8
HOLDER, TERM, BEAT_NS, SEQUENCE = range(4)
_SLOT_BITS = 16
_STATUS_BITS = 34
_STATUS_MASK = (1 << _STATUS_BITS) - 1
_GENERATION_MASK = 0xFFF


class HealthTable:
    """The shared memory; ``words`` begins with the lease."""

    def __init__(self, workers: int) -> None:
        """Map it, with a ring for each of so many workers; pages that nobody has written to cost nothing."""
        self._journal_at = _LEASE_WORDS
        self._keys_at = self._journal_at + JOURNAL
        self._statuses_at = self._keys_at + TARGETS + WINDOW
        self._rings_at = self._statuses_at + TARGETS + WINDOW
        memory = mmap.mmap(-1, (self._rings_at + workers * RING_WORDS) * 8)
        self.words: memoryview[int] = memoryview(memory).cast("q")

    # everybody's part

    @property
    def sequence(self) -> int:
        """How often something has changed."""
        return self.words[SEQUENCE]

    def changed_since(self, position: int, limit: int) -> list[int] | None:
        """Return which slots were the next to change, one for each step of ``sequence`` from a position on.

        None when that is not known any more.
        """
        sequence = self.words[SEQUENCE]
        # Below the position: a prober that was stopped half-way through a note has put the sequence back.
        if not 0 <= sequence - position <= JOURNAL:
            return None
        slots = []
        for at in range(position, min(sequence, position + limit)):
            entry = self.words[self._journal_at + at % JOURNAL]
            if entry >> _SLOT_BITS != at:
                return None
            slots.append(entry & ((1 << _SLOT_BITS) - 1))
        return slots

    def find(self, key: int) -> int:
        """Return the slot of a target, or ``NOWHERE``."""
        home = self._keys_at + key % TARGETS
        window = self.words[home : home + WINDOW].tolist()
        return key % TARGETS + window.index(key) if key in window else NOWHERE

    def key_at(self, slot: int) -> int:
        """Return the key of the target in a slot; 0 when there is none."""
        return self.words[self._keys_at + slot]

    def state_at(self, slot: int) -> State:
        """Return the state in a slot."""
        return _STATES[self.words[self._statuses_at + slot] & 3]

    def status_at(self, slot: int) -> Status:
        """Return the status in a slot."""
        return Status.unpack(self.words[self._statuses_at + slot] & _STATUS_MASK)

    def generation_at(self, slot: int) -> int:
        """Return what tells apart the targets that a slot has had, one after the other."""
        return self.words[self._statuses_at + slot] >> _STATUS_BITS

    def ring(self, worker: int) -> ReportRing:
        """Return the ring of a worker, by the number of its scoreboard entry."""
        at = self._rings_at + worker * RING_WORDS
        return ReportRing(self.words[at : at + RING_WORDS])

    # the prober's part

    def insert(self, key: int) -> int:
        """Give a target a slot, healthy, and return it; ``NOWHERE`` when there is no free place for its key."""
        home = self._keys_at + key % TARGETS
        window = self.words[home : home + WINDOW].tolist()
        if 0 not in window:
            return NOWHERE
        slot = key % TARGETS + window.index(0)
        generation = (self.generation_at(slot) + 1) & _GENERATION_MASK
        self.words[self._statuses_at + slot] = NEW.pack() | generation << _STATUS_BITS
        self.words[self._keys_at + slot] = key
        self._note(slot)
        return slot

    def remove(self, slot: int) -> None:
        """Free a slot."""
        self.words[self._keys_at + slot] = 0
        self._note(slot)

    def write(self, slot: int, status: Status) -> None:
        """Replace a status; the others are told when its state is another one."""
        at = self._statuses_at + slot
        before = self.words[at]
        self.words[at] = status.pack() | before >> _STATUS_BITS << _STATUS_BITS
        if before & 3 != status.state:
            self._note(slot)

    def forget_journal(self) -> None:
        """Let everybody look at everything: one who wrote before us may have died before it told of a change."""
        self.words[SEQUENCE] += JOURNAL + 1

    def occupied(self) -> dict[int, int]:
        """Return every target's slot by its key; about a millisecond."""
        keys = self.words[self._keys_at : self._statuses_at].tolist()
        return {key: slot for slot, key in enumerate(keys) if key}

    def _note(self, slot: int) -> None:
        sequence = self.words[SEQUENCE]
        self.words[self._journal_at + sequence % JOURNAL] = sequence << _SLOT_BITS | slot
        self.words[SEQUENCE] = sequence + 1
