"""The last good configuration on disk: what a gateway serves when it starts and its store is away.

One file, replaced as a whole: a line with the version of the format, then blocks, each with its length before it; the
first holds what the snapshot is of, the others records, and behind an empty one stands the SHA-256 of all before. A
record is kept as it is in the store, so secrets that are encrypted there are encrypted here; the file's mode is 0600.
Records whose value is not valid carry their last good value too.

One worker of a node writes: the one that holds a lock, from its first write to its end. It waits until changes have
settled, and hands what it has encoded to a thread, which writes.
"""

import asyncio
import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from config_sync.cache import ConfigStore
from config_sync.errors import ConfigError
from config_sync.records import Entry, Event, Item, key_of

log = logging.getLogger("propylon.sync")

FORMAT = b"propylon snapshot 1\n"
SETTLE = 1.0  # seconds without a change before the file is written …
SETTLE_AT_MOST = 30.0  # … but not longer than this after the first of them
LOCK_RETRY = 2.0  # until another worker tries to become the writer
WRITE_RETRY = 30.0  # until a file that could not be written is tried again
BLOCK = 256  # records encoded in one step: about 0.2 ms
DIGEST_BYTES = hashlib.sha256().digest_size


class SnapshotError(ConfigError):
    """The file is of no use; the message says why."""


class Header(msgspec.Struct, array_like=True):
    """What a snapshot is of."""

    prefix: str
    revision: int  # that it holds all changes of


class Record(msgspec.Struct, array_like=True, gc=False):
    """One key; ``good`` is true when the value is valid, false when it never was, else its last good value."""

    key: bytes
    value: bytes
    mod_revision: int
    create_revision: int
    version: int
    good: bool | bytes = True


_RECORDS = msgspec.msgpack.Decoder(list[Record])
_HEADER = msgspec.msgpack.Decoder(Header)


def encode_block(content: object) -> bytes:
    """Encode a block with its length before it."""
    body = msgspec.msgpack.encode(content)
    return len(body).to_bytes(4, "big") + body


def record_of(directory: str, item: Item) -> Record:
    """Write an item down."""
    good: bool | bytes = True if item.good is item.raw else item.good if item.good is not None else False
    key = key_of(directory, item.id).encode("utf-8", "surrogateescape")
    return Record(key, item.raw, item.mod_revision, item.create_revision, item.version, good)


def read_snapshot(path: Path, prefix: str) -> bytes:
    """Read a file and check that it is whole and of this prefix; for a thread, since it takes a while.

    Raises:
        FileNotFoundError: there is none.
        SnapshotError: it is damaged, or of something else.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SnapshotError(f"cannot be read: {error.strerror}") from error
    if not data.startswith(FORMAT):
        raise SnapshotError("is not of a format this version knows")
    if hashlib.sha256(data[:-DIGEST_BYTES]).digest() != data[-DIGEST_BYTES:]:
        raise SnapshotError("is damaged: its checksum is wrong")
    try:
        header = _HEADER.decode(next(_blocks(data)))
    except (msgspec.MsgspecError, StopIteration) as error:
        raise SnapshotError(f"is damaged: {error}") from error
    if header.prefix != prefix:
        raise SnapshotError(f"is of the prefix {header.prefix}, not of {prefix}")
    return data


def _blocks(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    at = len(FORMAT)
    while size := int.from_bytes(view[at : at + 4], "big"):
        yield view[at + 4 : at + 4 + size]
        at += 4 + size


def load_snapshot(data: bytes, store: ConfigStore) -> Iterator[None]:
    """Take what ``read_snapshot`` has read into a store, in steps; what is in the store is stale from then on.

    Raises:
        SnapshotError: a block cannot be decoded; the store is as it was.
    """
    blocks = _blocks(data)
    revision = _HEADER.decode(next(blocks)).revision
    incoming = store.receive(guarded=False, becomes_stale=True)
    try:
        for block in blocks:
            entries, good = _entries(block)
            yield
            yield from incoming.add(entries, good)
        yield from incoming.complete(revision)
    finally:
        incoming.drop()
    store.changed = revision


def _entries(block: memoryview) -> tuple[list[Entry], dict[str, bytes]]:
    try:
        records = _RECORDS.decode(block)
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"is damaged: {error}") from error
    entries = [
        Entry(_text(record.key), record.value, record.mod_revision, record.create_revision, record.version)
        for record in records
    ]
    return entries, {_text(record.key): record.good for record in records if isinstance(record.good, bytes)}


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


class SnapshotWriter:
    """Keeps the file equal to a store; observes it."""

    def __init__(self, path: Path, prefix: str, store: ConfigStore, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._prefix = prefix
        self._store = store
        self._loop = loop
        self._lock: BinaryIO | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed_at: float | None = None  # the first change that is not in the file
        self._noted = store.changed  # the last change that was heard of
        self._is_lock_missed = False  # and somebody has been told
        self._is_stopped = False
        store.observe(self)

    def applied(self, events: Sequence[Event], revision: int) -> None:
        """Write soon, when there was a change."""
        if self._store.changed != self._noted:
            self._note_change()

    def replaced(self, revision: int) -> None:
        """Write soon."""
        self._note_change()

    def stop(self) -> None:
        """Write no more, and let another worker as soon as nothing is being written; see ``stopped``."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
        else:
            self._unlock()

    def resume(self) -> None:
        """Write again: what has changed meanwhile, too; after ``stop``."""
        self._is_stopped = False
        self._note_change()

    async def stopped(self) -> None:
        """Wait until no thread of ours writes any more; after ``stop``."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _note_change(self) -> None:
        self._noted = self._store.changed
        if self._changed_at is None:
            self._changed_at = self._loop.time()
        if self._task is None and self._timer is None:
            self._look_in(SETTLE)

    def _look_in(self, delay: float) -> None:
        if not self._is_stopped:
            self._timer = self._loop.call_later(delay, self._settle, self._store.changed)

    def _settle(self, seen: int) -> None:
        """Write when nothing has changed since the last look, or has for too long."""
        self._timer = None
        now = self._loop.time()
        is_settled = self._store.changed == seen or now - (self._changed_at or now) > SETTLE_AT_MOST
        if not is_settled:
            self._look_in(SETTLE)
        elif self._store.stale or not self._is_writer():
            self._look_in(LOCK_RETRY)
        else:
            self._changed_at = None
            self._task = self._loop.create_task(self._write())

    def _is_writer(self) -> bool:
        if self._lock is not None:
            return True
        try:
            lock = self._path.with_name(self._path.name + ".lock").open("ab")
        except OSError as error:
            if not self._is_lock_missed:  # it is tried again all the time
                log.error("%s: its lock cannot be opened: %s", self._path, error.strerror)
            self._is_lock_missed = True
            return False
        self._is_lock_missed = False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _write(self) -> None:
        delay = SETTLE
        try:
            await self._write_file()
        except OSError as error:
            log.error("%s: cannot be written: %s; it is tried again in %d s", self._path, error.strerror, WRITE_RETRY)
            self._changed_at = self._changed_at or self._loop.time()
            delay = WRITE_RETRY
        except asyncio.CancelledError:
            if self._is_stopped:
                raise
            # It was resumed before it had stopped.
        finally:
            self._task = None
            if self._is_stopped:
                self._unlock()
        if self._changed_at is not None:
            self._look_in(delay)

    async def _write_file(self) -> None:
        store = self._store
        # Items are never changed, so these lists stay what they are now however long the writing takes.
        tables = [(directory, list(cache.items.values())) for directory, cache in store.caches.items()]
        head = FORMAT + encode_block(Header(self._prefix, store.changed))
        file = _SnapshotFile(self._path)
        try:
            await self._in_thread(file.begin, head)
            for directory, items in tables:
                for at in range(0, len(items), BLOCK):
                    block = encode_block([record_of(directory, item) for item in items[at : at + BLOCK]])
                    await self._in_thread(file.write, block)
            await self._in_thread(file.finish)
        except BaseException:
            file.abandon()
            raise

    async def _in_thread(self, call: Callable[..., None], *arguments: bytes) -> None:
        """Call in a thread; when we are cancelled, not before the call is over, for until then the file is its."""
        running = self._loop.run_in_executor(None, call, *arguments)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise


class _SnapshotFile:
    """A file being written beside the one it will replace, by the one who holds the lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._sum = hashlib.sha256()
        self._file: BinaryIO | None = None

    def begin(self, head: bytes) -> None:
        self._part.unlink(missing_ok=True)
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        self._file = os.fdopen(descriptor, "wb")
        self.write(head)

    def write(self, data: bytes) -> None:
        self._sum.update(data)
        self._opened().write(data)

    def finish(self) -> None:
        self.write(bytes(4))
        file = self._opened()
        file.write(self._sum.digest())
        file.flush()
        os.fsync(file.fileno())
        file.close()
        self._part.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def abandon(self) -> None:
        if self._file is not None:
            # What it still buffers may not fit on the disk.
            with suppress(OSError):
                self._file.close()
            self._part.unlink(missing_ok=True)

    def _opened(self) -> BinaryIO:
        assert self._file is not None  # noqa: S101 - begun
        return self._file
