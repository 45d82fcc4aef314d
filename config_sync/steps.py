"""Long work in an event loop: cut into steps, a few milliseconds of them in each round of the loop."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator

log = logging.getLogger("propylon.sync")

BUDGET = 0.002  # seconds of steps in one round of the loop


class Stepper:
    """Runs jobs in the order they come; what else the loop has to do runs in between."""

    __slots__ = ("_handle", "_jobs", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._jobs: deque[tuple[Iterator[None], Callable[[], None]]] = deque()
        self._handle: asyncio.Handle | None = None

    def is_busy(self) -> bool:
        """Tell whether anything is left to do."""
        return bool(self._jobs)

    def run(self, steps: Iterator[None], then: Callable[[], None]) -> None:
        """Do all steps, each about a millisecond at most, then call ``then``; begins in the next round."""
        self._jobs.append((steps, then))
        if self._handle is None:
            self._handle = self._loop.call_soon(self._round)

    def stop(self) -> None:
        """Leave the rest undone."""
        self._jobs.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _round(self) -> None:
        self._handle = None
        until = time.perf_counter() + BUDGET
        while self._jobs and time.perf_counter() < until:
            steps, then = self._jobs[0]
            if self._is_over(steps) and self._jobs and self._jobs[0][0] is steps:  # else it has stopped us
                # Only now: what ``then`` starts must find this job gone, and come behind those that wait.
                self._jobs.popleft()
                then()
        if self._jobs and self._handle is None:
            self._handle = self._loop.call_soon(self._round)

    def _is_over(self, steps: Iterator[None]) -> bool:
        try:
            next(steps)
        except StopIteration:
            return True
        except Exception:  # it must not keep the jobs behind it from being done
            log.exception("a long job failed")
            return True
        return False
