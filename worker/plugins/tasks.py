"""Waiting in an exchange for what a plugin awaits; the exchange's coroutine itself is not run by a Task."""

import asyncio
import inspect
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from worker.exchange import suspend
from worker.plugins.statistics import HookLate

if TYPE_CHECKING:
    from worker.exchange import Exchange

T = TypeVar("T")


async def in_task(exchange: "Exchange", awaitable: Awaitable[T]) -> T:
    """Wait for something in a Task of its own, which is cancelled when the exchange ends meanwhile.

    Raises:
        TypeError: it cannot be awaited.
        HookLate: it takes longer than ``plugins.hook_timeout``.
    """
    if not inspect.isawaitable(awaitable):
        raise TypeError(f"a {type(awaitable).__name__} is neither an Answer nor awaitable")
    task = asyncio.ensure_future(awaitable, loop=exchange.downstream.context.loop)
    waiting = Waiting(exchange)
    exchange.waiting = waiting
    task.add_done_callback(waiting.done)
    try:
        await suspend()
    except BaseException:
        task.remove_done_callback(waiting.done)
        task.add_done_callback(_passed_over)
        task.cancel()
        raise
    return task.result()


def _passed_over(task: "asyncio.Future[Any]") -> None:
    """Take note of how a task ended that nobody waits for any more, so that the loop does not complain."""
    if not task.cancelled():
        task.exception()


class Waiting:
    """What an exchange waits for while a plugin's task runs."""

    __slots__ = ("_exchange", "_since")

    def __init__(self, exchange: "Exchange") -> None:
        self._exchange = exchange
        self._since = exchange.downstream.context.now

    def done(self, _: object) -> None:
        """Let the exchange go on, unless it has ended."""
        if self._exchange.waiting is self:
            self._exchange.resume()

    def check_deadline(self, now: float) -> None:
        """End what takes too long; called by the janitor."""
        limit = self._exchange.downstream.context.settings.plugins.hook_timeout
        if limit and now - self._since > limit:
            self._exchange.fail(HookLate(f"it has waited for more than {limit:g} s (plugins.hook_timeout)"))
