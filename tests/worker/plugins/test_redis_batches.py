"""Counting here, and telling a Redis now and then (``sync_interval``)."""

import asyncio
from typing import Any, cast

from worker.plugins.limiting.redis_batches import Batches
from worker.plugins.testing import PluginKit


class Slow:
    """A Redis that knows of ten in 60 seconds, and answers when others have asked, too."""

    def __init__(self) -> None:
        self.left = 10

    async def take(self, key: bytes, limit: int, window: int, cost: int = 1) -> tuple[int, float]:
        self.left -= cost
        left = self.left
        await asyncio.sleep(0.01)
        return left, 60.0


def test_requests_that_begin_a_window_together_are_all_counted() -> None:
    async def all_at_once() -> list[int]:
        asked = [batches.take(b"key", 10, 60) for _ in range(25)]
        return [left for left, _ in await asyncio.gather(*asked)]

    with PluginKit() as kit:
        batches = Batches(cast("Any", Slow()), 1000, kit.context.plugins.services)
        assert sorted(kit.run(all_at_once())) == [-1] * 15 + list(range(10))
