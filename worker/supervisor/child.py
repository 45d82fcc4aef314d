"""Workers and their places, as the master sees them."""

import socket
from dataclasses import dataclass, field

from worker.scoreboard import Entry
from worker.supervisor.listeners import Listeners


@dataclass
class Child:
    """A worker as the master sees it."""

    pid: int
    generation: int
    control: socket.socket
    entry: Entry
    born: float
    ready: bool = False
    silent: bool = False  # it has closed its end; SIGCHLD tells the rest


@dataclass
class Slot:
    """A place for a worker, with its listening sockets."""

    listeners: Listeners
    worker: Child | None = None
    retired: list[Child] = field(default_factory=list)  # told to drain
    failures: int = 0  # quick deaths in a row
    respawn_at: float | None = None

    def children(self) -> list[Child]:
        """Return everyone who lives here."""
        return [*([self.worker] if self.worker is not None else []), *self.retired]
