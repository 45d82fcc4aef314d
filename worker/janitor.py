"""Periodic work in one place: time-outs, idle connections, the date, the logs.

There is no timer per request (1.4 us each). One timer goes round: upstream connections at work are looked at
ten times a second, since their time-outs may be short; clients, idle connections and logs once a second. A
time-out is therefore late by up to that much. Clients are looked at in portions, so that no step is long. In a
drain clients are looked at ten times a second: idle ones are closed one by one then, not in bursts.
"""

import asyncio
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.context import WorkerContext

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
        is_second = self._round % ROUNDS_PER_SECOND == 0
        if is_second or context.draining:
            self._check_clients(0)
            for lingering in list(context.lingering):
                lingering.check_deadlines(context.now)
        if is_second:
            context.refresh_date()
            if context.draining:
                self._trim_pools()
            for pool in context.pools:
                for connection in pool.expired(context.now):
                    connection.close()
            if context.access_log is not None:
                context.access_log.flush()

    def _trim_pools(self) -> None:
        """Close idle upstream connections that the clients left in a drain cannot all be in need of."""
        clients = self._context.connections - len(self._context.lingering) - len(self._context.tunnels)
        for pool in self._context.pools:
            for connection in pool.surplus(clients):
                connection.close()

    def _check_upstreams(self, now: float) -> None:
        for connection in list(self._context.upstream_connections):
            connection.check_deadlines(now)
        for tunnel in list(self._context.tunnels):
            tunnel.check_deadlines(now)

    def _check_clients(self, at: int) -> None:
        context = self._context
        portion = list(islice(context.downstream_connections, at, at + PORTION))
        for connection in portion:
            connection.check_deadlines(context.now)
        if len(portion) == PORTION:
            context.loop.call_soon(self._check_clients, at + PORTION)
