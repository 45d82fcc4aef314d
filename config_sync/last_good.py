"""LastGood: the snapshot on disk in the life of a process that serves from etcd.

It is loaded before the provider starts. So values that are not valid keep their last good version over a reload, the
guard sees what an emptied store would remove, and while the store is away there is something to serve.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from config_sync.cache import ConfigStore
from config_sync.snapshot import SnapshotError, SnapshotWriter, load_snapshot, read_snapshot
from config_sync.status import SyncStatus
from config_sync.steps import Stepper

log = logging.getLogger("propylon.sync")


class LastGood:
    """Loads the snapshot of a prefix, tells whether it may be served, and keeps it up to date."""

    def __init__(self, path: Path, prefix: str, store: ConfigStore, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._prefix = prefix
        self._store = store
        self._loop = loop
        self._stepper = Stepper(loop)
        self._writer: SnapshotWriter | None = None
        self._seen: tuple[int, int] | None = None  # the version of the file that was loaded

    async def load(self) -> None:
        """Take what is on disk into the store, as stale, and write what comes later; errors are logged.

        Only while no provider runs: nothing else may change the store meanwhile.
        """
        try:
            self._seen = await self._loop.run_in_executor(None, _version, self._path)
            data = await self._loop.run_in_executor(None, read_snapshot, self._path, self._prefix)
        except FileNotFoundError:
            log.info("%s: there is no saved configuration yet", self._path)
        except SnapshotError as error:
            self._refuse(error)
        else:
            loaded = self._loop.create_future()
            self._stepper.run(self._steps(data), lambda: loaded.set_result(None))
            await loaded
        if self._writer is None:
            self._writer = SnapshotWriter(self._path, self._prefix, self._store, self._loop)

    async def has_changed(self) -> bool:
        """Tell whether another process has written the file since it was loaded."""
        return self._seen != await self._loop.run_in_executor(None, _version, self._path)

    def _steps(self, data: bytes) -> Iterator[None]:
        try:
            yield from load_snapshot(data, self._store)
        except SnapshotError as error:
            self._refuse(error)

    def _refuse(self, error: SnapshotError) -> None:
        log.error("%s: %s; it is not used, and will be written anew", self._path, error)

    def may_serve(self, others: Iterable[SyncStatus]) -> bool:
        """Tell whether the store holds what was on disk, and that is not older than what ``others`` serve."""
        store = self._store
        digests = _nonzero(store.digests)
        return store.stale and all(
            store.changed >= other.changed or digests == _nonzero(other.digests) for other in others
        )

    def stop(self) -> None:
        """Load and write no more, and let another process write."""
        self._stepper.stop()
        if self._writer is not None:
            self._writer.stop()

    def resume(self) -> None:
        """Write again what is to come; after ``stop``."""
        if self._writer is not None:
            self._writer.resume()

    async def stopped(self) -> None:
        """Wait until nothing is being written; after ``stop``."""
        if self._writer is not None:
            await self._writer.stopped()


def _nonzero(digests: Mapping[str, int]) -> dict[str, int]:
    """Leave out directories that are empty, which one version of this code may know and another not."""
    return {name: digest for name, digest in digests.items() if digest}


def _version(path: Path) -> tuple[int, int] | None:
    """Tell one version of a file from another; None: there is no file, or it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
