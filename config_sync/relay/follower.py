"""FollowerLink: a worker's connection to its leader, and how what comes there gets into the store.

Frames wait in a queue and are taken in order, for about two milliseconds in one round of the loop; a snapshot is
received in steps, as one from the store itself. While the queue is long, nothing is read.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

from config_sync.cache import ConfigStore, Entry, Event, Incoming
from config_sync.digest import MODULUS
from config_sync.relay.election import connect
from config_sync.relay.messages import (
    Batch,
    Compare,
    Complete,
    FrameSplitter,
    FromLeader,
    Hello,
    Page,
    Progress,
    Record,
    RelayError,
    Welcome,
    event_of,
    frame,
    pack_digest,
    read_from_leader,
)
from config_sync.steps import BUDGET, Stepper

log = logging.getLogger("propylon.sync")

QUEUE_BYTES = 1 << 20  # nothing is read while more waits


def total_digest(store: ConfigStore) -> int:
    """Return the digest of everything a worker holds."""
    return sum(store.digests.values()) % MODULUS


class Owner(Protocol):
    """Who is told how it goes."""

    def welcomed(self, pid: int) -> None:
        """The leader has answered; we are about to say Hello, and from now on only this link changes the store."""

    def heard(self) -> None:
        """The leader is alive."""

    def followed(self, revision: int) -> None:
        """Everything up to a revision is in place, and proved equal to what the leader holds."""

    def differed(self, reason: str) -> None:
        """What we hold is not what the leader holds; the link is closed."""

    def lost(self, reason: str) -> None:
        """The link is closed."""


class FollowerLink(asyncio.Protocol):
    """One connection; opened by ``open``, at its end after ``differed``, ``lost`` or ``close``."""

    def __init__(self, path: Path, store: ConfigStore, loop: asyncio.AbstractEventLoop, owner: Owner) -> None:
        self._path = path
        self._store = store
        self._loop = loop
        self._owner: Owner | None = owner
        self._connecting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._splitter = FrameSplitter()
        self._queue: deque[bytes] = deque()
        self._queued = 0  # bytes
        self._is_reading = True
        self._handle: asyncio.Handle | None = None
        self._stepper = Stepper(loop)
        self._is_busy = False  # the stepper has something of ours to do
        self._records: list[Record] = []  # of a batch that is not whole yet
        self._incoming: Incoming | None = None

    def open(self) -> None:
        """Connect.

        Raises:
            OSError: there is no leader.
        """
        sock = connect(self._path)

        async def hand_over() -> None:
            # Never cancelled: the loop owns the socket from here on. It takes one round.
            try:
                await self._loop.create_unix_connection(lambda: self, sock=sock)
            except OSError as error:
                sock.close()
                self._close(str(error))

        self._connecting = self._loop.create_task(hand_over())

    def is_working(self) -> bool:
        """Tell whether what has come is not all in place yet."""
        return self._is_busy or bool(self._queue)

    def close(self) -> None:
        """Close without telling the owner; what has not become visible yet never will."""
        self._owner = None
        self._stepper.stop()
        if self._incoming is not None:
            self._incoming.drop()
            self._incoming = None
        self._queue.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._transport is not None:
            self._transport.abort()

    def _close(self, reason: str) -> None:
        owner = self._owner
        self.close()
        if owner is not None:
            owner.lost(reason)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the leader's welcome."""
        self._transport = cast("asyncio.Transport", transport)
        if self._owner is None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Queue what has come."""
        if self._owner is None:
            return
        self._owner.heard()
        try:
            payloads = self._splitter.feed(data)
        except RelayError as error:
            self._close(str(error))
            return
        self._queue += payloads
        self._queued += sum(map(len, payloads))
        if self._queued > QUEUE_BYTES and self._is_reading and self._transport is not None:
            self._is_reading = False
            self._transport.pause_reading()
        if self._handle is None and not self._is_busy:
            self._work()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        self._close("the leader has closed the connection" + (f": {exc}" if exc else ""))

    # what the leader says, in order

    def _work(self) -> None:
        self._handle = None
        until = time.perf_counter() + BUDGET
        try:
            while self._queue and not self._is_busy:
                if time.perf_counter() >= until:
                    self._handle = self._loop.call_soon(self._work)
                    break
                payload = self._queue.popleft()
                self._queued -= len(payload)
                self._take(read_from_leader(payload))
        except RelayError as error:
            self._close(str(error))
        if not self._is_reading and self._queued <= QUEUE_BYTES // 2 and self._transport is not None:
            self._is_reading = True
            self._transport.resume_reading()

    def _take(self, message: FromLeader) -> None:
        if isinstance(message, Batch):
            self._batch_received(message)
        elif isinstance(message, Progress):
            self._store.apply((), message.revision)
            self._prove(message.revision, message.digest)
        elif isinstance(message, Page):
            self._page_received(message)
        elif isinstance(message, Complete):
            self._completed(message)
        elif isinstance(message, Welcome):
            if self._owner is not None:
                self._owner.welcomed(message.pid)
            self._say_hello()
        elif isinstance(message, Compare):
            self._say_hello()

    def _say_hello(self) -> None:
        self._records = []
        if self._owner is not None and self._transport is not None:
            store = self._store
            self._transport.write(frame(Hello(store.revision, pack_digest(total_digest(store)), store.stale)))

    def _batch_received(self, batch: Batch) -> None:
        self._records += batch.records
        if batch.more:
            return
        records, self._records = self._records, []
        # A batch that we had the beginning of, from a former leader, comes whole.
        applied = self._store.revision
        events = [event_of(record) for record in records if record.mod_revision > applied]
        if self._store.fits_one_step(events):
            self._store.apply(events, batch.revision)
            self._prove(batch.revision, batch.digest)
        else:
            self._apply_in_steps(events, batch)

    def _apply_in_steps(self, events: Sequence[Event], batch: Batch) -> None:
        def applied() -> None:
            self._is_busy = False
            self._prove(batch.revision, batch.digest)
            self._work()

        self._is_busy = True
        self._stepper.run(self._store.applying(events, batch.revision), applied)

    def _page_received(self, page: Page) -> None:
        if page.first:
            self._incoming = self._store.receive(guarded=False)  # the leader's guard has let it pass
        if self._incoming is None:
            raise RelayError("the leader sent a page of a snapshot that has not begun")
        entries = [event for record in page.records if isinstance(event := event_of(record), Entry)]
        good = {
            entry.key: record.good
            for entry, record in zip(entries, page.records, strict=True)
            if record.good is not None
        }

        def added() -> None:
            self._is_busy = False
            self._work()

        self._is_busy = True
        self._stepper.run(self._incoming.add(entries, good), added)

    def _completed(self, complete: Complete) -> None:
        if self._incoming is None:
            raise RelayError("the leader completed a snapshot that has not begun")

        def completed() -> None:
            self._is_busy = False
            self._incoming = None
            self._prove(complete.revision, complete.digest)
            self._work()

        self._is_busy = True
        self._stepper.run(self._incoming.complete(complete.revision), completed)

    def _prove(self, revision: int, digest: bytes) -> None:
        """Compare with the leader, when we are at the same revision."""
        store, owner = self._store, self._owner
        if owner is None:
            return
        if store.revision == revision and pack_digest(total_digest(store)) != digest:
            self.close()
            owner.differed(f"at revision {revision} we do not hold what the leader holds")
            return
        if store.revision == revision:
            store.stale = False
        store.held = None  # from a time when we watched the store ourselves
        owner.followed(store.revision)
