"""LastGood: the snapshot on disk in the life of a process that serves from etcd.

It is loaded before the provider starts. So values that are not valid keep their last good version over a reload, the
guard sees what an emptied store would remove, and while the store is away there is something to serve.
"""

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from config_sync.cache import ConfigStore
from config_sync.snapshot import SnapshotError, SnapshotWriter, load_snapshot, read_snapshot
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

    async def load(self) -> None:
        """Take what is on disk into the empty store, as stale, and write what comes later; errors are logged."""
        try:
            data = await self._loop.run_in_executor(None, read_snapshot, self._path, self._prefix)
        except FileNotFoundError:
            log.info("%s: there is no saved configuration yet", self._path)
        except SnapshotError as error:
            log.error("%s: %s; it is not used, and will be written anew", self._path, error)
        else:
            loaded = self._loop.create_future()
            self._stepper.run(load_snapshot(data, self._store), lambda: loaded.set_result(None))
            await loaded
        self._writer = SnapshotWriter(self._path, self._prefix, self._store, self._loop)

    def may_serve(self, others: Iterable[int]) -> bool:
        """Tell whether the store holds what was on disk, and that is not older than what ``others`` have.

        Args:
            others: for every other process that serves, the revision of its last change.
        """
        return self._store.stale and all(self._store.changed >= changed for changed in others)

    def stop(self) -> None:
        """Load and write no more, and let another process write."""
        self._stepper.stop()
        if self._writer is not None:
            self._writer.stop()
