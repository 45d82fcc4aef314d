"""PluginServices: what plugins may use of their worker."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from worker.observability.exposition import Exposition
from worker.observability.metrics import Metrics
from worker.observability.scraping import Scraping
from worker.plugins.http_client import HttpClient

if TYPE_CHECKING:
    from config_sync.settings import Settings
    from worker.consumers import Consumers
    from worker.shared_state.counters import SharedCounters
    from worker.shared_state.notes import SharedNotes
    from worker.upstream.peer import UpstreamCell

log = logging.getLogger("propylon.plugins")


class Sender(Protocol):
    """Something that sends later what it is given."""

    async def flush(self) -> None:
        """Send what waits; returns when that is done, or given up."""


class PluginServices:
    """One for each worker."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: "Settings",
        consumers: "Consumers",
        upstream: "Callable[[str], UpstreamCell]",
        upstream_of: "Callable[[str, Any], UpstreamCell]",
        give_back: "Callable[[UpstreamCell], None]",
        counters: "SharedCounters",
        notes: "SharedNotes",
        metrics: Metrics,
    ) -> None:
        """Take what is offered.

        ``upstream`` finds one by id; ``upstream_of`` builds one from a plugin's configuration, and ``give_back`` is
        told when the plugin does not use it any more. All workers share ``counters`` and ``notes``.
        """
        self.loop = loop
        self.settings = settings
        self.consumers = consumers
        self.upstream = upstream
        self.upstream_of = upstream_of
        self.give_back = give_back
        self.counters = counters
        self.notes = notes
        self.metrics = metrics
        self.scraping = Scraping(Exposition(metrics, lambda: metrics.gauges()), self.spawn)
        self.http = HttpClient(loop, settings.ssl.ssl_trusted_certificate)
        self.senders: set[Sender] = set()  # what has something to send that must not be lost when the worker ends
        self.on_reopen: list[Callable[[], None]] = []  # called when log files are to be opened anew
        self._tasks: set[asyncio.Task[None]] = set()

    def attribute(self, plugin: str) -> Mapping[str, Any]:
        """Return what the settings say of a plugin (``plugin_attr``)."""
        found = self.settings.plugin_attr.get(plugin, {})
        return found if isinstance(found, Mapping) else {}

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Run something beside the requests; it is cancelled when the worker ends, and its exception logged."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def flush(self, within: float) -> None:
        """Let everything be sent that waits; what cannot be within so many seconds is given up."""
        flushes = [sender.flush() for sender in list(self.senders)]
        if flushes:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await asyncio.gather(*flushes, return_exceptions=True)

    def reopen(self) -> None:
        """Open log files anew, after they were moved away."""
        for call in list(self.on_reopen):
            call()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a plugin's background work has failed", exc_info=error)

    def close(self) -> None:
        """Cancel what runs, and close the connections of ``http``."""
        for task in list(self._tasks):
            task.cancel()
        self.http.close()
