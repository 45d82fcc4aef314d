"""Upkeep: work on the index that nobody waits for: warnings after changes, a comparison now and then.

It is done in steps of a millisecond with pauses between them, so that requests do not notice.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from worker.routing.route import Route
from worker.routing.router import Router
from worker.routing.shadows import Shadows
from worker.routing.verifier import Verification

log = logging.getLogger("propylon.routing")

BUDGET = 0.001  # seconds of work in one round of the loop
PAUSE = 0.01  # seconds between two rounds
LOOK = 0.05  # seconds from a change to the first look at it, at most


class Upkeep:
    """The timers of a worker's index."""

    def __init__(
        self,
        router: Router,
        routes: Callable[[], Mapping[str, Route]],
        shadows: Shadows,
        loop: asyncio.AbstractEventLoop,
        verify_interval: float,
    ) -> None:
        """Look after an index; ``verify_interval`` in seconds, 0: it is not compared."""
        self._router = router
        self._routes = routes
        self._shadows = shadows
        self._loop = loop
        self._verify_interval = verify_interval
        self._looking: asyncio.TimerHandle | None = None
        self._verifying: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._look()
        if self._verify_interval:
            self._verifying = self._loop.call_later(self._verify_interval, self._verify)

    def stop(self) -> None:
        """End."""
        for handle in (self._looking, self._verifying):
            if handle is not None:
                handle.cancel()

    def _look(self) -> None:
        if self._shadows.is_current():
            self._looking = self._loop.call_later(LOOK, self._look)
        else:
            self._go_on_looking(self._shadows.steps())

    def _go_on_looking(self, steps: Iterator[None]) -> None:
        if _is_done(steps):
            self._looking = self._loop.call_later(PAUSE, self._look)
        else:
            self._looking = self._loop.call_later(PAUSE, self._go_on_looking, steps)

    def _verify(self) -> None:
        verification = Verification(self._router, self._routes())
        self._go_on_verifying(verification, verification.steps())

    def _go_on_verifying(self, verification: Verification, steps: Iterator[None]) -> None:
        if not _is_done(steps):
            self._verifying = self._loop.call_later(PAUSE, self._go_on_verifying, verification, steps)
            return
        if verification.is_outdated:
            log.debug("the index has changed while it was compared; it will be compared again")
        elif verification.count:
            for difference in verification.differences:
                log.error("the index is not what it should be: %s", difference)
            log.error("%d differences in the index; a reload builds it anew, please report it", verification.count)
        self._verifying = self._loop.call_later(self._verify_interval, self._verify)


def _is_done(steps: Iterator[None]) -> bool:
    """Work for a moment; True at the end."""
    until = time.perf_counter() + BUDGET
    try:
        while time.perf_counter() < until:
            next(steps)
    except StopIteration:
        return True
    except Exception:  # a mistake here must not keep the timers from going on
        log.exception("upkeep of the index failed")
        return True
    return False
