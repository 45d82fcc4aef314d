"""Workers and their places, as the master sees them."""

import contextlib
import logging
import math
import os
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.scoreboard import Entry
from worker.supervisor.listeners import Listeners
from worker.supervisor.messages import (
    Deadline,
    Drain,
    Failed,
    Pause,
    Ready,
    Reason,
    Resume,
    ToWorker,
    receive_from_worker,
    send,
)

log = logging.getLogger("propylon.master")

KILL_AFTER = 5.0  # seconds after the time a worker was given


@dataclass(eq=False)
class Child:
    """A worker; times are of the monotonic clock, in seconds."""

    pid: int
    generation: int
    control: socket.socket
    entry: Entry
    born: float
    ready: bool = False
    ready_at: float = math.inf
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

    def hear(self) -> bool:
        """Read what it says; True when that is that it serves. Raises BlockingIOError when it says nothing."""
        packet = receive_from_worker(self.control)
        if packet is None:
            self.silent = True
        elif isinstance(packet.message, Failed):
            self.reason = packet.message.reason
        elif isinstance(packet.message, Ready):
            self.ready = True
            self.ready_at = min(self.ready_at, time.monotonic())
            return True
        return False

    def tell(self, message: ToWorker, sockets: Sequence[socket.socket] = ()) -> bool:
        """Tell it something; False, and no more than a warning, when it does not read, or is gone."""
        is_told = send(self.control, message, sockets)
        if not is_told and not self.silent:
            log.warning("worker %d does not read what it is told", self.pid)
        return is_told

    def signal(self, number: signal.Signals) -> None:
        """Signal it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def pause(self) -> None:
        """Let it accept nobody for the time being."""
        self.paused = True
        self.tell(Pause())

    def resume(self) -> None:
        """Let it be as before; it says Ready when it is."""
        self.paused = self.draining = self.ready = False
        self.kill_at = math.inf
        self.tell(Resume())

    def drain(self, reason: Reason, seconds: float) -> None:
        """Let it finish and end; it is killed when it does not."""
        self.draining = True
        self.kill_at = time.monotonic() + seconds + KILL_AFTER
        self.tell(Drain(reason, seconds))

    def hasten(self, seconds: float) -> bool:
        """Let it be done with its drain soon; False when it will be sooner than that."""
        kill_at = time.monotonic() + seconds + KILL_AFTER
        if kill_at >= self.kill_at:
            return False
        self.kill_at = kill_at
        self.tell(Deadline(seconds))
        return True


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
