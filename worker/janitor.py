"""Periodic work in one place: time-outs, idle connections, the date, the logs.

There is no timer per request (1.4 us each). One timer goes round: upstream connections at work are looked at
ten times a second, since their time-outs may be short; clients, idle connections and logs once a second. A
time-out is therefore late by up to that much. Clients are looked at in portions, so that no step is long.
"""

import asyncio
from itertools import islice
from typing import TYPE_CHECKING

from worker.errors import ReadTimeout, SendTimeout

if TYPE_CHECKING:
    from worker.context import WorkerContext
    from worker.http.http1_client import Http1Client

TICK = 0.1  # seconds between rounds
ROUNDS_PER_SECOND = 10
PORTION = 2_000  # clients looked at in one step: about 0.5 ms


class Janitor:
    """The timer of a worker."""

    __slots__ = ("_context", "_handle", "_round")

    def __init__(self, context: "WorkerContext") -> None:
        self._context = context
        self._handle: asyncio.TimerHandle | None = None
        self._round = 0

    def start(self) -> None:
        """Go round from now on."""
        self._handle = self._context.loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        """Go round no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        context = self._context
        context.now = context.loop.time()
        self._handle = context.loop.call_later(TICK, self._tick)
        self._round += 1
        self._check_upstreams(context.now)
        if self._round % ROUNDS_PER_SECOND == 0:
            context.refresh_date()
            self._check_clients(0)
            for pool in context.pools:
                for connection in pool.expired(context.now):
                    connection.close()
            if context.access_log is not None:
                context.access_log.flush()

    def _check_upstreams(self, now: float) -> None:
        late = [
            connection
            for connection in self._context.upstream_connections
            if connection.is_active() and now - connection.last_active > connection.shortest_timeout
        ]
        for connection in late:
            self._check_upstream(connection, now - connection.last_active)

    def _check_upstream(self, connection: "Http1Client", waited: float) -> None:
        exchange = connection.exchange
        if exchange is None or connection.read_paused:
            return  # the client is slow, not the peer; its own time-out counts
        timeout = connection.timeout
        # What was noted as the last activity may be up to a round older than it was.
        waited -= TICK
        if connection.write_paused:
            if waited > timeout.send:
                exchange.fail(SendTimeout(f"{exchange.peer!r} takes no bytes"))
        elif waited > timeout.read and (exchange.body is None or exchange.body.complete):
            exchange.fail(ReadTimeout(f"{exchange.peer!r} does not answer in time"))

    def _check_clients(self, at: int) -> None:
        context = self._context
        portion = list(islice(context.downstream_connections, at, at + PORTION))
        for connection in portion:
            connection.check_deadlines(context.now)
        if len(portion) == PORTION:
            context.loop.call_soon(self._check_clients, at + PORTION)
