"""The response hooks of an exchange: the head once, then each piece of the body; the log at the end."""

from collections.abc import Awaitable
from inspect import isawaitable
from time import perf_counter
from typing import TYPE_CHECKING

from worker.plugins.base import FAILURES
from worker.plugins.chain import BLOCKING_TIME
from worker.plugins.response_head import ResponseHead
from worker.plugins.statistics import PluginRecord

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.chain import Chain


class BodyFilters:
    """The body filters of one answer, one behind the other."""

    __slots__ = ("_chain", "_exchange", "_head")

    def __init__(self, chain: "Chain", exchange: "Exchange", head: ResponseHead) -> None:
        self._chain = chain
        self._exchange = exchange
        self._head = head

    def feed(self, data: bytes, is_last: bool = False) -> "bytes | Awaitable[bytes]":
        """Return what is to be sent for a piece, or will be; PluginFailed when a filter fails."""
        return self._feed(0, data, is_last)

    def whole(self, data: bytes) -> "bytes | Awaitable[bytes]":
        """Return likewise what is to be sent for a whole body."""
        first = self.feed(data)
        if not isinstance(first, bytes):
            return self._rest_of(first)
        last = self.feed(b"", is_last=True)
        return first + last if isinstance(last, bytes) else self._joined(first, last)

    async def _rest_of(self, first: Awaitable[bytes]) -> bytes:
        begun = await first
        last = self.feed(b"", is_last=True)
        return begun + (last if isinstance(last, bytes) else await last)

    async def _joined(self, first: bytes, last: Awaitable[bytes]) -> bytes:
        return first + await last

    def _feed(self, at: int, data: bytes, is_last: bool) -> "bytes | Awaitable[bytes]":
        """Feed the filters from one of them on."""
        chain, exchange = self._chain, self._exchange
        hooks = chain.body_filter
        is_timed = exchange.run.is_timed  # type: ignore[union-attr]  # there are filters
        began = perf_counter()
        while at < len(hooks) and (data or is_last):
            record, hook = hooks[at]
            at += 1
            try:
                filtered = hook(exchange, data, is_last)
            except FAILURES as error:
                self._failed(record, error)
                continue
            now = perf_counter()
            if is_timed or now - began > BLOCKING_TIME:
                chain.took(record, now - began, is_timed)
            began = now
            if isinstance(filtered, bytes):
                data = filtered
            elif isawaitable(filtered):
                return self._feed_later(at, record, filtered, is_last)
            else:
                self._failed(record, _no_bytes(filtered))
        return data

    async def _feed_later(self, at: int, record: PluginRecord, filtered: Awaitable[bytes], is_last: bool) -> bytes:
        try:
            data = await filtered
            if not isinstance(data, bytes):
                raise _no_bytes(data)
        except FAILURES as error:
            self._chain.failed(record.name, error, may_bypass=False)
            raise AssertionError from error
        rest = self._feed(at, data, is_last)
        return rest if isinstance(rest, bytes) else await rest

    def _failed(self, record: PluginRecord, error: BaseException) -> None:
        # What it has made of the pieces before, and kept back of them, the rest may not go with.
        self._chain.failed(record.name, error, may_bypass=not self._head.length_changes)


def _no_bytes(filtered: object) -> TypeError:
    return TypeError(f"it has returned a {type(filtered).__name__} instead of bytes")


def filter_head(exchange: "Exchange", head: ResponseHead) -> ResponseHead:
    """Let the header filters see an answer's head; PluginFailed when one of them fails."""
    run = exchange.run
    assert run is not None  # noqa: S101 - only called where there are filters
    run.head = head
    chain = run.chain
    is_timed = run.is_timed
    began = perf_counter()
    for record, hook in chain.header_filter:
        try:
            hook(exchange, head)
        except FAILURES as error:
            chain.failed(record.name, error)
        now = perf_counter()
        if is_timed or now - began > BLOCKING_TIME:
            chain.took(record, now - began, is_timed)
        began = now
    run.body = BodyFilters(chain, exchange, head) if chain.body_filter and head.has_body else None
    return head


def log_exchange(exchange: "Exchange") -> None:
    """Let the log hooks see an exchange that is over."""
    run = exchange.run
    assert run is not None  # noqa: S101 - only called where there are plugins
    chain = run.chain
    is_timed = run.is_timed
    began = perf_counter()
    for record, hook in chain.log:
        try:
            hook(exchange)
        except FAILURES as error:  # the answer is sent: nothing can be refused any more
            chain.statistics.failed(record.name, error)
        now = perf_counter()
        if is_timed or now - began > BLOCKING_TIME:
            chain.took(record, now - began, is_timed)
        began = now
