"""What one follower is sent next: the leader's side, without the socket.

    GREETING ── Hello ─► WAITING ──► PAGING ──► STREAMING
                            ▲ └───── equal, or behind ─►│
                            └────────── Compare ────────┘ its place is no longer in the history

A follower has no queue: it has a place in the history, and is sent what comes there when its socket takes it. One
that is too slow costs nobody anything; when its place is lost, it is asked where it stands and gets a snapshot.

A follower may be ahead: it had more of the former leader than we had. It waits until we have come as far; if we
watch the store and do not come as far for ``AHEAD_SECONDS``, or if a snapshot has replaced what we had, the
store itself went back, and the follower with it. One that has what it has from disk does not wait for a leader that
watches.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Protocol

from config_sync.cache import Item, key_of
from config_sync.relay.history import FRAME_BYTES, History, Standing
from config_sync.relay.messages import (
    Compare,
    Complete,
    Hello,
    Page,
    Progress,
    Record,
    RelayError,
    Welcome,
    frame,
    pack_digest,
)

AHEAD_SECONDS = 2.0


class State(Enum):
    """What a follower waits for."""

    GREETING = "greeting"  # to say where it stands
    WAITING = "waiting"  # for us to know what it lacks
    PAGING = "paging"  # for the rest of a snapshot
    STREAMING = "streaming"  # for what happens


class Trigger(Enum):
    """What moves it on."""

    HELLO = "hello"
    LACKS_EVERYTHING = "lacks everything"
    LACKS_BATCHES = "lacks batches, or nothing"
    PAGED = "paged"
    LOST = "lost"


TRANSITIONS: dict[State, dict[Trigger, State]] = {
    State.GREETING: {Trigger.HELLO: State.WAITING},
    State.WAITING: {Trigger.LACKS_EVERYTHING: State.PAGING, Trigger.LACKS_BATCHES: State.STREAMING},
    State.PAGING: {Trigger.PAGED: State.STREAMING},
    State.STREAMING: {Trigger.LOST: State.GREETING},
}


class Source(Protocol):
    """What the leader has to give."""

    history: History

    def is_ready(self) -> bool:
        """Tell whether there is content that was compared with the store."""

    def is_watching(self) -> bool:
        """Tell whether the store would tell us of a change now."""

    def items(self) -> list[tuple[str, list[Item]]]:
        """Return everything there is at this instant, with the name of its directory."""


class Feed:
    """One follower."""

    def __init__(self, source: Source, pid: int) -> None:
        self._source = source
        self.state = State.GREETING
        self._greeting: bytes | None = frame(Welcome(pid))
        self._hello = Hello(0, b"")
        self._place = (0, 0)  # number of a batch and of its frame
        self._told = 0  # the revision the follower knows to be complete
        self._pages: Iterator[bytes] = iter(())
        # From now on the follower has what it has from us: only by a replacement can it get ahead.
        self._resets_at_first = source.history.resets
        self._ahead_until: float | None = None

    def hello_received(self, hello: Hello) -> None:
        """Note where the follower stands; it wants to know what it lacks.

        Raises:
            RelayError: it was not asked.
        """
        if Trigger.HELLO not in TRANSITIONS[self.state]:
            raise RelayError("a follower said Hello again without being asked")
        self._move(Trigger.HELLO)
        self._hello = hello
        self._ahead_until = None

    def next_frame(self, now: float) -> bytes | None:
        """Return what the follower is to be sent next; None: nothing for the time being."""
        if self._greeting is not None:
            greeting, self._greeting = self._greeting, None
            return greeting
        if self.state is State.WAITING:
            self._compare(now)
        if self.state is State.PAGING:
            page = next(self._pages, None)
            if page is not None:
                return page
            self._move(Trigger.PAGED)
        return self._stream() if self.state is State.STREAMING else None

    def _compare(self, now: float) -> None:
        history = self._source.history
        if not self._source.is_ready():
            return
        standing, number = history.compare(self._hello.revision, int.from_bytes(self._hello.digest, "big"))
        if standing is Standing.AHEAD and not self._has_gone_back(now):
            return
        self._place, self._told = (number, 0), -1
        if standing in (Standing.EQUAL, Standing.BEHIND):
            self._move(Trigger.LACKS_BATCHES)
        else:
            self._move(Trigger.LACKS_EVERYTHING)
            self._told = history.revision
            self._pages = pages(self._source.items(), history.revision, history.digest)

    def _has_gone_back(self, now: float) -> bool:
        """Tell whether the store, and not only we, is behind the follower."""
        if self._source.history.resets != self._resets_at_first:
            return True
        if not self._source.is_watching():
            self._ahead_until = None
            return False
        if self._hello.stale:
            return True
        if self._ahead_until is None:
            self._ahead_until = now + AHEAD_SECONDS
        return now >= self._ahead_until

    def _stream(self) -> bytes | None:
        history = self._source.history
        number, part = self._place
        if number < history.first:
            self._move(Trigger.LOST)
            return frame(Compare())
        if number < history.next:
            batch = history.batch(number)
            data = batch.frame(part)
            is_last = part + 1 == batch.count()
            self._place = (number + 1, 0) if is_last else (number, part + 1)
            self._told = batch.revision if is_last else self._told
            return data
        if self._told >= history.revision:
            return None
        self._told = history.revision
        return frame(Progress(history.revision, pack_digest(history.digest)))

    def _move(self, trigger: Trigger) -> None:
        self.state = TRANSITIONS[self.state][trigger]


def pages(content: Sequence[tuple[str, Sequence[Item]]], revision: int, digest: int) -> Iterator[bytes]:
    """Encode a complete snapshot, frame by frame; items are never changed, so it stays what it was at the start."""
    is_first = True
    records: list[Record] = []
    size = 0
    for directory, items in content:
        for item in items:
            records.append(_record(directory, item))
            size += len(item.raw) + 64
            if size >= FRAME_BYTES:
                yield frame(Page(records, is_first))
                records, size, is_first = [], 0, False
    yield frame(Page(records, is_first))
    yield frame(Complete(revision, pack_digest(digest)))


def _record(directory: str, item: Item) -> Record:
    key = key_of(directory, item.id).encode("utf-8", "surrogateescape")
    good = None if item.good == item.raw else item.good
    return Record(key, item.mod_revision, item.raw, item.create_revision, item.version, good)
