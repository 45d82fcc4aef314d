"""BatchProcessor: collects entries and sends them together, beside the requests (plugins.md section 7).

    waiting entries ──► (full, idle, or old) ──► batches ──► one after the other to ``send``, again after failures

What cannot be taken any more is dropped and counted: ``max_pending`` and ``MOST_BYTES`` bound what waits and what is
being sent.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Annotated
from weakref import WeakMethod

import msgspec

from worker.observability.existence import Origin

if TYPE_CHECKING:
    from worker.plugins.services import PluginServices

log = logging.getLogger("propylon.plugins")

TELL = 10.0  # seconds between two complaints, at least
MAX_PENDING = 8_192
MOST_BYTES = 64 * 1024 * 1024  # of entries of one use of a plugin, which may hold bodies
Send = Callable[[Sequence[bytes]], Awaitable[None]]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
AtLeastZero = Annotated[int, msgspec.Meta(ge=0)]


class BatchConfig(msgspec.Struct):
    """When batches are sent; times in seconds."""

    name: str = ""
    batch_max_size: AtLeastOne = 1000
    inactive_timeout: Annotated[float, msgspec.Meta(gt=0)] = 5
    buffer_duration: Annotated[float, msgspec.Meta(gt=0)] = 60
    max_retry_count: AtLeastZero = 0
    retry_delay: Annotated[float, msgspec.Meta(ge=0)] = 1


class SendFailed(Exception):
    """A batch has not been taken."""


class BatchProcessor:
    """Takes entries that are encoded already; for one use of a plugin."""

    def __init__(
        self,
        services: "PluginServices",
        config: BatchConfig,
        send: Send,
        name: str,
        max_pending: int = MAX_PENDING,
        labels: tuple[str, str] = ("", ""),
    ) -> None:
        """Send by a method that raises an exception when it fails; ``labels`` of metrics: route id, server."""
        self._services = services
        self._loop = services.loop
        self._config = config
        self._send = WeakMethod(send)  # its owner has us; it is held while there is something to send
        self._owner: Send | None = None
        self._name = name
        self._max_pending = max_pending
        self._waiting: list[bytes] = []
        self._batches: deque[list[bytes]] = deque()
        self._pending = 0
        self._bytes = 0
        self._first = self._last = 0.0  # when the first and the last of those that wait came
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._dropped = 0
        self._tell_at = 0.0
        self._labels = (name, *labels)

    def add(self, entry: bytes) -> None:
        """Take an entry; never waits."""
        if self._pending >= self._max_pending or self._bytes + len(entry) > MOST_BYTES:
            self._drop(1, "too many entries wait")
            return
        self._count(1)
        self._bytes += len(entry)
        now = self._loop.time()
        self._last = now
        if not self._waiting:
            self._first = now
        self._waiting.append(entry)
        if len(self._waiting) >= self._config.batch_max_size:
            self._close_batch()
        elif self._timer is None:
            self._timer = self._loop.call_later(self._until_due(now), self._look)

    async def flush(self) -> None:
        """Send everything now, and wait for the end of it."""
        self._close_batch()
        while self._task is not None:
            await asyncio.shield(self._task)

    def close(self) -> None:
        """Send what waits; what comes later is sent too, in time."""
        self._close_batch()

    def _until_due(self, now: float) -> float:
        config = self._config
        return min(self._last + config.inactive_timeout, self._first + config.buffer_duration) - now

    def _look(self) -> None:
        """Send what has waited for long enough; one timer for all entries of a batch."""
        self._timer = None
        if not self._waiting:
            return
        seconds = self._until_due(self._loop.time())
        if seconds <= 0.001:
            self._close_batch()
        else:
            self._timer = self._loop.call_later(seconds, self._look)

    def _close_batch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._batches.append(self._waiting)
            self._waiting = []
        if self._batches and self._task is None:
            self._task = self._services.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._batches:
                batch = self._batches.popleft()
                await self._send_again(batch)
                self._count(-len(batch))
                self._bytes -= sum(map(len, batch))
        finally:
            self._task = None

    async def _send_again(self, batch: list[bytes]) -> None:
        for tries in range(self._config.max_retry_count + 1):
            if tries:
                await asyncio.sleep(self._config.retry_delay)
            try:
                await self._owner(batch)  # type: ignore[misc]  # it is held
            except Exception as error:  # whatever it was, it must not end the task
                reason = str(error) or type(error).__name__
            else:
                return
        self._drop(len(batch), reason)

    def _count(self, entries: int) -> None:
        self._pending += entries
        if self._pending and self._owner is None:
            self._owner = self._send()
            self._services.senders.add(self)
        elif not self._pending:
            self._owner = None
            self._services.senders.discard(self)
        metrics = self._services.metrics
        metrics.cells(metrics.batch_entries, self._labels, Origin(pid=os.getpid()))[0] += entries

    def _drop(self, entries: int, reason: str) -> None:
        self._dropped += entries
        now = self._loop.time()
        if now >= self._tell_at:
            self._tell_at = now + TELL
            log.error("%s: %d entries are lost: %s", self._name, self._dropped, reason)
            self._dropped = 0
