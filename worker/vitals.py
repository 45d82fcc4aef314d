"""Vitals: what a worker writes into its entry of the scoreboard with every heartbeat."""

import time
from typing import TYPE_CHECKING

from worker.http.http1_server import count_states
from worker.memory import resident_memory
from worker.scoreboard import Entry

if TYPE_CHECKING:
    from worker.context import WorkerContext


class Vitals:
    """The figures of one worker."""

    def __init__(self, entry: Entry, context: "WorkerContext") -> None:
        """Prepare to write."""
        self._entry = entry
        self._context = context

    def write(self) -> None:
        """Write all of them; about 0.4 ms with 16,000 clients."""
        entry, context = self._entry, self._context
        idle, tunnels = count_states(context.downstream_connections)
        entry.connections = context.connections
        entry.idle, entry.tunnels, entry.active = idle, tunnels, context.connections - idle - tunnels
        entry.upstream_idle = sum(map(len, context.pools))
        entry.upstream_active = max(0, len(context.upstream_connections) - entry.upstream_idle)
        entry.requests = context.requests
        entry.accepted = context.accepted
        entry.rss = resident_memory()
        entry.heartbeat_ns = time.monotonic_ns()
