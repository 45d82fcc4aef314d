"""The response hooks of an exchange: the head once, then each piece of the body; the log at the end."""

from time import perf_counter
from typing import TYPE_CHECKING

from worker.plugins.base import FAILURES
from worker.plugins.chain import BLOCKING_TIME
from worker.plugins.response_head import ResponseHead
from worker.plugins.statistics import SAMPLED

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

    def feed(self, data: bytes, is_last: bool = False) -> bytes:
        """Return what is to be sent for a piece; PluginFailed when a filter fails."""
        chain, exchange = self._chain, self._exchange
        is_timed = exchange.downstream.requests % SAMPLED == 0
        began = perf_counter()
        for record, hook in chain.body_filter:
            if not data and not is_last:
                break
            try:
                filtered = hook(exchange, data, is_last)
                if not isinstance(filtered, bytes):
                    raise TypeError(f"it has returned a {type(filtered).__name__} instead of bytes")
                data = filtered
            except FAILURES as error:
                # What it has made of the pieces before, and kept back of them, the rest may not go with.
                chain.failed(record.name, error, may_bypass=not self._head.length_changes)
            now = perf_counter()
            if is_timed or now - began > BLOCKING_TIME:
                chain.took(record, now - began, is_timed)
            began = now
        return data


def filter_head(exchange: "Exchange", head: ResponseHead) -> ResponseHead:
    """Let the header filters see an answer's head; PluginFailed when one of them fails."""
    run = exchange.run
    assert run is not None  # noqa: S101 - only called where there are filters
    run.head = head
    chain = run.chain
    is_timed = exchange.downstream.requests % SAMPLED == 0
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
    is_timed = exchange.downstream.requests % SAMPLED == 0
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
