"""The provider that reads a file in APISIX's standalone format.

Whenever the file has changed, all of it is a complete snapshot for the store, which compares it object by object:
what has not changed is not touched. A file that is missing or not usable changes nothing.

Revisions must be the same in all workers, also in one that is born later, and a file has no history. The revision of
a load is the time from which the path has led to this file (``file_trace.Trace.revision``), that of an object a hash of
its value (``file_reader.content_revision``).

What may block is done by a thread (``file_watch``), what would hold the interpreter's lock by a process of its own
(``file_reader``); here, on the event loop, pages are handed to the store in steps.
"""

import asyncio
import contextlib
import enum
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from config_sync.cache import ConfigStore, Entry, Incoming
from config_sync.file_watch import FileRead, FileRefused, FileWatch, Message, PageRead, ReadingBegan
from config_sync.provider import ProviderState
from config_sync.settings import YamlSettings
from config_sync.status import Held
from config_sync.steps import Stepper

log = logging.getLogger("propylon.sync")

_HELD_FACTOR = 10  # a file that is held back is read again after so many times what reading it took
_HELD_SECONDS = 1.0  # but not sooner


class Stage(enum.Enum):
    """What the provider is doing."""

    STARTING = "starting"
    READING = "reading"
    WATCHING = "watching"  # the file is live
    HELD = "held"  # the guard holds it back
    REFUSED = "refused"  # it is missing or not usable; what was live before still is


class FileProvider:
    """Configuration from a file; one per process."""

    def __init__(
        self,
        settings: YamlSettings,
        store: ConfigStore,
        loop: asyncio.AbstractEventLoop,
        on_progress: Callable[[int], None],
    ) -> None:
        """Prepare; see ``config_sync.provider`` for the callback."""
        self._path = settings.path
        self._store = store
        self._loop = loop
        self._on_progress = on_progress
        self._watch = FileWatch(settings.path, self._deliver)
        self._stepper = Stepper(loop)
        self._incoming: Incoming | None = None
        self._stage = Stage.STARTING
        self._revision = 0
        self._last_error = ""
        self._began_at = 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin to watch and read."""
        self._watch.start()

    def stop(self) -> None:
        """Deliver nothing more; the thread ends by itself."""
        self._stopped = True
        self._watch.stop()
        self._stepper.stop()
        if self._retry is not None:
            self._retry.cancel()

    def step_down(self) -> None:
        """Nobody relies on this one."""

    def stand_again(self) -> None:
        """Nobody relies on this one."""

    def state(self) -> ProviderState:
        """Tell what is under way."""
        return ProviderState(self._stage.value, self._path, self._revision, self._last_error)

    # what the thread tells; each in its turn, since the store may still be busy with what came before

    def _deliver(self, message: Message) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            self._loop.call_soon_threadsafe(self._received, message)

    def _received(self, message: Message) -> None:
        if self._stopped:
            return
        if isinstance(message, ReadingBegan):
            self._stepper.run(iter(()), self._begin)
        elif isinstance(message, PageRead):
            self._stepper.run(self._add(message.entries), self._watch.page_used)
        elif isinstance(message, FileRead):
            self._stepper.run(self._complete(message), partial(self._completed, message))
        else:
            self._stepper.run(iter(()), partial(self._refused, message))

    def _begin(self) -> None:
        self._drop()
        self._stage = Stage.READING
        self._began_at = self._loop.time()
        self._incoming = self._store.receive()

    def _add(self, entries: Sequence[Entry]) -> Iterator[None]:
        if self._incoming is not None:
            try:
                yield from self._incoming.add(entries)
            except Exception:
                self._drop()  # without this page the rest would look like deletions
                raise

    def _complete(self, message: FileRead) -> Iterator[None]:
        if self._incoming is not None:
            yield from self._incoming.complete(message.revision)

    def _completed(self, message: FileRead) -> None:
        incoming, self._incoming = self._incoming, None
        held = self._store.held
        if incoming is not None and incoming.is_done:
            self._taken(message, incoming.differences)
        elif incoming is not None and held is not None:
            self._held_back(held)
        else:
            self._refused(FileRefused("could not be taken over after a fault in the gateway; see the error log"))

    def _taken(self, message: FileRead, differences: int) -> None:
        for warning in message.warnings:
            log.warning("%s: %s", self._path, warning)
        if differences:
            self._store.changed = message.revision  # those of the objects are no times
        counts = sum(len(cache.items) for cache in self._store.caches.values())
        log.info("%s: %d of %d objects differ, revision %d", self._path, differences, counts, message.revision)
        self._stage = Stage.WATCHING
        self._revision = message.revision
        self._last_error = ""
        self._on_progress(message.revision)

    def _held_back(self, held: Held) -> None:
        self._stage = Stage.HELD
        self._report(f"would remove {held.removes} of {held.of} routes at once: held back until it is confirmed")
        took = self._loop.time() - self._began_at
        self._retry = self._loop.call_later(max(_HELD_SECONDS, _HELD_FACTOR * took), self._watch.read_again)

    def _refused(self, message: FileRefused) -> None:
        self._drop()
        self._stage = Stage.REFUSED
        kept = "what was read before stays" if self._revision else "nothing is served before it can be read"
        self._report(f"{message.reason}; {kept}")

    def _report(self, text: str) -> None:
        error = text if text.startswith(self._path) else f"{self._path}: {text}"
        if error != self._last_error:
            log.error("%s", error)
        self._last_error = error

    def _drop(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._incoming is not None:
            self._incoming.drop()
            self._incoming = None
