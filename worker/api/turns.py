"""Turns: who makes the next portion of a long answer, among all connections of a worker.

A portion takes up to half a millisecond or so, in which no request is served. So there is one at a time, or some that
are short, however many answers are asked for, and a pause behind them that requests have for themselves.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

log = logging.getLogger("propylon.control")

BUDGET = 0.0003  # seconds after which no further portion is begun
PAUSE = 0.001  # seconds until the next one


class Turn:
    """A place in the queue."""

    __slots__ = ("step",)

    def __init__(self, step: Callable[[], None]) -> None:
        self.step: Callable[[], None] | None = step

    def cancel(self) -> None:
        """Leave it."""
        self.step = None


class Turns:
    """The queue."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.perf_counter) -> None:
        """Begin empty; ``clock`` (seconds) measures the portions."""
        self._loop = loop
        self._clock = clock
        self._waiting: deque[Turn] = deque()
        self._is_running = False

    def call(self, step: Callable[[], None]) -> Turn:
        """Call a step, later, when its turn comes."""
        turn = Turn(step)
        self._waiting.append(turn)
        if not self._is_running:
            self._is_running = True
            self._loop.call_soon(self._go_on)
        return turn

    def _go_on(self) -> None:
        until = self._clock() + BUDGET
        while self._waiting:
            step = self._waiting.popleft().step
            if step is None:
                continue
            try:
                step()
            except Exception:
                log.exception("a portion of an answer failed")
            if self._clock() >= until:
                self._loop.call_later(PAUSE, self._go_on)
                return
        self._is_running = False
