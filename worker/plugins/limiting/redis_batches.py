"""Batches: windows of a Redis that are counted here, and told there only now and then."""

from collections import OrderedDict
from typing import TYPE_CHECKING

from worker.plugins.limiting.redis_client import RedisFailed
from worker.plugins.limiting.redis_counts import RedisCounts

if TYPE_CHECKING:
    from worker.plugins.services import PluginServices

MOST = 10_000  # windows that are known here


class Window:
    """What is known of a window, and what the Redis does not know of it yet."""

    __slots__ = ("ends", "left", "limit", "owed", "seconds")

    def __init__(self, limit: int, seconds: int, left: int, ends: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self.left = left
        self.ends = ends  # in seconds of the loop's clock
        self.owed = 0


class Batches:
    """Tells a Redis every ``interval`` seconds what was taken; until then, a worker lets pass what it thinks is left.

    What was taken since then is not told when the worker ends.
    """

    def __init__(self, counts: RedisCounts, interval: float, services: "PluginServices") -> None:
        self._counts = counts
        self._interval = interval
        self._services = services
        self._windows: OrderedDict[bytes, Window] = OrderedDict()
        self._is_waiting = False

    async def take(self, key: bytes, limit: int, window: int) -> tuple[int, float]:
        """Take one; what is left, below 0 when there was none, and the seconds to the window's end.

        Raises:
            RedisFailed: nothing is known of the window.
        """
        loop = self._services.loop
        known = self._windows.get(key)
        if known is None or known.ends <= loop.time():
            left, seconds = await self._counts.take(key, limit, window, 0)
            known = self._windows.get(key)  # others may have asked meanwhile, and taken
            if known is None or known.ends <= loop.time():
                known = self._windows[key] = Window(limit, window, left, loop.time() + seconds)
                if len(self._windows) > MOST:
                    self._windows.popitem(last=False)
        seconds = known.ends - loop.time()
        if known.left <= 0:
            return -1, seconds
        known.left -= 1
        known.owed += 1
        if not self._is_waiting:
            self._is_waiting = True
            loop.call_later(self._interval, self._begin)
        return known.left, seconds

    def _begin(self) -> None:
        self._services.spawn(self._tell())

    async def _tell(self) -> None:
        loop = self._services.loop
        self._is_waiting = False
        for key, window in [(key, window) for key, window in self._windows.items() if window.owed]:
            owed, window.owed = window.owed, 0
            if window.ends <= loop.time():
                continue  # it is another one by now
            try:
                left, seconds = await self._counts.take(key, window.limit, window.seconds, owed)
            except RedisFailed:
                window.owed += owed
                continue
            window.left = left - window.owed
            window.ends = loop.time() + seconds
