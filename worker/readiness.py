"""Readiness: how a worker comes to know what it is to serve, and when it may.

It accepts nobody before its configuration is complete, and at least as new as that of the workers that were alive when
it was born. Without etcd it waits for some time, and then serves what was on disk, unless others serve what is newer.
"""

import asyncio
import logging
from collections.abc import Callable

from config_sync.cache import ConfigStore
from config_sync.last_good import LastGood
from config_sync.providers import open_provider
from config_sync.settings import Settings
from config_sync.status import SyncStatus
from worker.api.record import decode_status
from worker.scoreboard import Entry, WorkerState

log = logging.getLogger("propylon.worker")

STALE_CHECK = 1.0  # seconds
CATCH_UP_CHECK = 0.01  # seconds


def open_last_good(settings: Settings, store: ConfigStore, loop: asyncio.AbstractEventLoop) -> LastGood | None:
    """Make what loads and keeps the snapshot; None when there is none, as with a file, which is on disk itself."""
    path = settings.snapshot_path()
    if path is None or settings.config_provider != "etcd":
        return None
    return LastGood(path, settings.etcd.prefix, store, loop)


class Readiness:
    """The provider of a worker and the snapshot on disk, until the worker may serve, and after."""

    def __init__(
        self,
        settings: Settings,
        entry: Entry,
        store: ConfigStore,
        loop: asyncio.AbstractEventLoop,
        minimum_revision: int,
        progressed: Callable[[], None],
        may_serve: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            settings: where the configuration comes from.
            entry: the worker's.
            store: where everything goes.
            loop: to run on.
            minimum_revision: the worker may not serve below it.
            progressed: called whenever there is something new.
            may_serve: called once, when the worker may serve.

        Raises:
            SettingsError: a provider cannot be made of the settings.
        """
        self._settings = settings
        self._entry = entry
        self._store = store
        self._loop = loop
        self._minimum_revision = minimum_revision
        self._on_progress = progressed
        self._on_may_serve = may_serve
        self._has_told = False
        self._task: asyncio.Task[None] | None = None
        self.provider = open_provider(settings, store, loop, self._progressed)
        self._last_good = open_last_good(settings, store, loop)

    def start(self) -> None:
        """Begin with what is on disk, then with what the provider brings."""
        self._task = self._loop.create_task(self._receive())

    def drain(self) -> None:
        """Leave to others what they rely on this worker for; go on to receive."""
        self.provider.step_down()
        if self._last_good is not None:
            self._last_good.stop()

    def resume(self) -> None:
        """Undo ``drain``."""
        self.provider.stand_again()
        if self._last_good is not None:
            self._last_good.resume()

    async def stop(self) -> None:
        """Receive nothing more; returns when nothing is being written any more."""
        if self._task is not None:
            self._task.cancel()
        self.provider.stop()
        if self._last_good is not None:
            self._last_good.stop()
            await self._last_good.stopped()

    async def caught_up(self) -> None:
        """Wait until we have what others serve, or have been told of."""
        while self._is_behind():  # noqa: ASYNC110 - other processes write what it looks at
            await asyncio.sleep(CATCH_UP_CHECK)

    async def _receive(self) -> None:
        if self._last_good is not None:
            await self._last_good.load()
            self._loop.call_later(self._settings.etcd.startup_timeout, self._serve_stale, self._last_good)
        self.provider.start()

    def _may_serve(self) -> None:
        self._has_told = True
        self._on_may_serve()

    def _is_waiting(self) -> bool:
        return not self._has_told and self._entry.state == WorkerState.STARTING

    def _serve_stale(self, last_good: LastGood) -> None:
        """Serve what was on disk, when etcd has not told us what is true and nobody else serves what is newer."""
        if not self._is_waiting():
            return
        if not last_good.may_serve(self._others()):
            self._task = self._loop.create_task(self._load_again(last_good))
            return
        log.error(
            "serves the configuration saved at revision %d, which may be out of date: %s",
            self._store.changed,
            self.provider.state().last_error or "etcd has not answered yet",
        )
        self._may_serve()

    def _others(self) -> list[SyncStatus]:
        """Return what those have who serve from the same store."""
        mine = self._entry
        return [decode_status(entry.published()) for entry in mine.board.ready() if entry.store == mine.store]

    async def _load_again(self, last_good: LastGood) -> None:
        """Take a file that another worker has written since: what it serves may have been too new to be in ours."""
        try:
            if self._is_cut_off() and await last_good.has_changed() and self._is_cut_off():
                provider = open_provider(self._settings, self._store, self._loop, self._progressed)
                self.provider.stop()
                self.provider = provider
                await last_good.load()
                provider.start()
        finally:
            self._loop.call_later(STALE_CHECK, self._serve_stale, last_good)

    def _is_cut_off(self) -> bool:
        """Tell whether nobody has told us yet what is true, and it does not look as if somebody was about to."""
        store = self._store
        is_told = store.revision > 0 and not store.stale
        return not is_told and self._entry.state == WorkerState.STARTING and self.provider.state().last_error != ""

    def _progressed(self, revision: int) -> None:
        self._on_progress()
        if self._is_waiting():
            if revision >= self._minimum_revision:
                self._may_serve()
            else:
                log.info("waiting for revision %d, at %d", self._minimum_revision, revision)

    def _is_behind(self) -> bool:
        """Tell whether others serve, or have been told of, what we do not have yet."""
        if self._last_good is not None and self._store.stale:
            return not self._last_good.may_serve(self._others())
        return self._store.revision < self._entry.board.owed(self._entry.store)
