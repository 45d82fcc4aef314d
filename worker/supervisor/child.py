"""Workers and their places, as the master sees them."""

import math
import socket
from dataclasses import dataclass, field

from worker.scoreboard import Entry
from worker.supervisor.listeners import Listeners


@dataclass(eq=False)
class Child:
    """A worker; times are of the monotonic clock, in seconds."""

    pid: int
    generation: int
    control: socket.socket
    entry: Entry
    born: float
    ready: bool = False
    paused: bool = False
    draining: bool = False
    silent: bool = False  # it has closed its end; SIGCHLD tells the rest
    reason: str = ""  # why it cannot work, in its own words
    asked_for_stacks: float | None = None  # since it does not move
    kill_at: float = math.inf
    spread: float = 0.0  # by how much of them its limits are lower
    adopted: set[int] = field(default_factory=set)  # slots it accepts for beside its own

    @property
    def serves(self) -> bool:
        """Whether it accepts clients."""
        return self.ready and not self.paused and not self.draining and not self.silent


@dataclass(eq=False)
class Slot:
    """A place for a worker, with its listening sockets.

    While a rollout replaces the worker, it stays in its place, and its successor is beside it, until that is over.
    """

    number: int
    listeners: Listeners
    worker: Child | None = None
    successor: Child | None = None
    retired: list[Child] = field(default_factory=list)  # told to drain, for good
    failures: int = 0  # quick deaths in a row
    respawn_at: float | None = None

    def children(self) -> list[Child]:
        """Return everyone who lives here."""
        return [child for child in (self.worker, self.successor, *self.retired) if child is not None]

    def is_served(self) -> bool:
        """Tell whether somebody here accepts clients."""
        return any(child.serves for child in self.children())
