"""Scraping: a whole exposition, made beside the requests, for those who cannot take it portion by portion."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from worker.observability.exposition import Exposition

PAUSE = 0.001  # seconds between two portions, which requests have for themselves
LARGEST = 16 * 1024 * 1024  # bytes


class Scraping:
    """Makes one at a time: who asks meanwhile gets the same."""

    def __init__(self, exposition: Exposition, spawn: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        """``spawn`` runs something beside the requests."""
        self._exposition = exposition
        self._spawn = spawn
        self._made: asyncio.Future[bytes] | None = None

    async def text(self) -> bytes:
        """Return all of it.

        Raises:
            OverflowError: it has more than ``LARGEST`` bytes.
        """
        if self._made is None or self._made.done():
            self._made = asyncio.get_running_loop().create_future()
            self._spawn(self._make(self._made))
        return await asyncio.shield(self._made)

    async def _make(self, made: "asyncio.Future[bytes]") -> None:
        pieces, size = [], 0
        try:
            for portion in self._exposition.portions():
                pieces.append(portion)
                size += len(portion)
                if size > LARGEST:
                    raise OverflowError(f"it has more than {LARGEST} bytes")
                await asyncio.sleep(PAUSE)
            made.set_result(await asyncio.get_running_loop().run_in_executor(None, b"".join, pieces))
        except Exception as error:
            made.set_exception(error)
            made.exception()  # who has asked may be gone
        finally:
            made.cancel()  # if nothing has come of it, the worker ends
