"""Waiting for a lock of the shared counters without holding up the event loop."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from worker.shared_state.locks import Busy

T = TypeVar("T")

PAUSE = 0.002  # seconds
ROUNDS = 200


async def patiently(ask: Callable[[bool], T]) -> T:
    """Ask, patiently, until nobody is in the way; at last ask without patience.

    Who holds a lock for longer than a moment is not scheduled; who holds it for longer than this has been stopped.
    """
    for _ in range(ROUNDS):
        await asyncio.sleep(PAUSE)
        with suppress(Busy):
            return ask(True)
    return ask(False)
