"""Queue: exchanges that wait, in order, because no peer of their upstream can take them now.

A full node (``max_conns``) or a hash ring that is still being built are the reasons. Nothing here costs a Task: an
exchange that waits is a suspended coroutine, and there is one timer, for the one that has waited longest.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from worker.errors import QueueFull, QueueTimeout
from worker.exchange import Exchange, suspend

if TYPE_CHECKING:
    from worker.upstream.peer import Peer


class Waiter:
    """One exchange in a queue; ``expires`` is of the loop's clock, in seconds."""

    __slots__ = ("exchange", "expires")

    def __init__(self, exchange: Exchange, expires: float) -> None:
        self.exchange = exchange
        self.expires = expires


def _nobody(exchange: Exchange) -> None:
    """Choose no peer: the upstream has none."""


class Queue:
    """The exchanges that wait for a peer of one upstream; handed on when the upstream is changed."""

    __slots__ = ("_handle", "_timer", "choose", "size", "timeout", "upstream", "waiting")

    def __init__(self, upstream: str, size: int = 0, timeout: float = 0.0) -> None:
        """Let at most ``size`` exchanges wait, each at most ``timeout`` seconds."""
        self.upstream = upstream
        self.size = size
        self.timeout = timeout
        self.choose: Callable[[Exchange], Peer | None] = _nobody  # of the upstream as it is now
        self.waiting: dict[Waiter, None] = {}
        self._handle: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, exchange: Exchange) -> "Peer":
        """Wait until a peer can take the exchange, and return it.

        Raises:
            QueueFull: as many wait as may.
            QueueTimeout: no peer had room in time.
            BodyNeeded: and whatever else the balancer raises when it is asked.
        """
        if len(self.waiting) >= self.size:
            raise QueueFull(f"upstream {self.upstream}: every node is at max_conns, and {self.size} requests wait")
        loop = asyncio.get_running_loop()
        waiter = exchange.waiting = Waiter(exchange, loop.time() + self.timeout)
        self.waiting[waiter] = None
        self._watch(waiter.expires)
        try:
            peer: Peer = await suspend()
        finally:
            self.waiting.pop(waiter, None)
        return peer

    def _watch(self, expires: float) -> None:
        """See that the timer rings by then; sooner than before, when ``timeout`` has been made shorter."""
        if self._timer is not None:
            if self._timer.when() <= expires:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(expires, self._expire)

    def wake(self) -> None:
        """Let those go on who can; in the next round of the loop, so that exchanges do not nest."""
        if self.waiting and self._handle is None:
            self._handle = asyncio.get_running_loop().call_soon(self._admit)

    def _admit(self) -> None:
        self._handle = None
        while self.waiting:
            waiter = next(iter(self.waiting))
            try:
                peer = self.choose(waiter.exchange)
            except Exception as error:  # what is hashed on may be in the body, for example
                del self.waiting[waiter]
                waiter.exchange.fail(error)
                continue
            if peer is None:
                return
            del self.waiting[waiter]
            waiter.exchange.resume(peer)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        late = [waiter for waiter in self.waiting if waiter.expires <= now]
        for waiter in late:
            if waiter in self.waiting:
                del self.waiting[waiter]
                waiter.exchange.fail(QueueTimeout(f"upstream {self.upstream}: no node had room in time"))
        if self.waiting:
            self._watch(min(waiter.expires for waiter in self.waiting))
