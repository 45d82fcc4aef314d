"""HealthMonitor: the timer by which a worker takes part in health checks.

Ten times a second it hands over what its requests have shown, sees to the lease, probes if that is its own, and takes
over what has changed in the table.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from worker.upstream.health.lease import Lease, Lock
from worker.upstream.health.probe import Resolve, TlsContexts
from worker.upstream.health.prober import Prober
from worker.upstream.health.registry import CheckRegistry

log = logging.getLogger("propylon.health")

TICK = 0.1  # seconds


class HealthMonitor:
    """The health checks of one worker, from the moment it is ready."""

    def __init__(
        self,
        registry: CheckRegistry,
        worker: int,
        lock: Lock,
        workers: Callable[[], int],
        loop: asyncio.AbstractEventLoop,
        resolve: Resolve | None = None,
        contexts: TlsContexts | None = None,
    ) -> None:
        """Take part as a worker, by the number of its scoreboard entry.

        ``workers`` tells how many entries have been in use; for ``resolve`` and ``contexts`` see ``probe``.
        """
        self._registry = registry
        self._ring = registry.table.ring(worker)
        self._lease = Lease(registry.table, worker, lock)
        self._workers = workers
        self._loop = loop
        self._resolve = resolve
        self._contexts = contexts
        self._prober: Prober | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._may_lead = True
        self._failed = False

    def start(self) -> None:
        """Take part from now on."""
        self._tick()

    def drain(self) -> None:
        """Leave the lease to others; go on to follow, and to tell what requests show."""
        self._may_lead = False
        self._lead(False)
        self._lease.give_up()

    def resume(self) -> None:
        """Take the lease again when it is free; undoes ``drain``."""
        self._may_lead = True

    def stop(self) -> None:
        """Take part no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.drain()

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        self._registry.outbox.flush(self._registry.table, self._ring)
        if self._may_lead:
            self._lead(self._keep_lease())
        if self._prober is not None:
            self._prober.tick(self._loop.time())
        self._refresh()

    def _refresh(self) -> None:
        if self._registry.refresh() and self._timer is not None:
            self._loop.call_soon(self._refresh)

    def _keep_lease(self) -> bool:
        try:
            held = self._lease.keep(time.monotonic_ns())
        except OSError as error:
            if not self._failed:
                log.error("cannot take over the health checks: %s", error)
            self._failed = True
            return False
        self._failed = False
        return held

    def _lead(self, leads: bool) -> None:
        if leads and self._prober is None:
            log.info("this worker does the health checks now")
            self._prober = Prober(self._registry, self._lease, self._workers, self._loop, self._resolve, self._contexts)
        elif not leads and self._prober is not None:
            self._prober.stop()
            self._prober = None
