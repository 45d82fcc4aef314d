"""Retirement: how listening sockets end without a connection lost; decisions only.

    SETTLING ──► EMPTYING ──► RELEASED ──► OVER

When it begins, nobody new is let in any more. Handshakes under way are given time to finish; then the queues are
empty as soon as who accepts has accepted what is there. Then it is told to let go, and is given time to do so: the
event loop of a worker that watches a socket which is closed under it spins.
"""

from enum import Enum

SETTLING = 1.0  # seconds; a SYN-ACK that is lost is sent again after one (RFC 6298), and data carry a lost ACK before
LONGEST_EMPTYING = 10.0  # seconds; nobody accepts
RELEASING = 2.0  # seconds
LOOK = 0.02  # seconds between two looks at the queues


class Stage(Enum):
    """Where it stands."""

    SETTLING = "handshakes finish"
    EMPTYING = "what is queued is accepted"
    RELEASED = "who accepts lets go"
    OVER = "the sockets can be closed"


class Retirement:
    """The end of some listening sockets."""

    def __init__(self, now: float) -> None:
        self.stage = Stage.SETTLING
        self.due = now + SETTLING
        self._until = 0.0

    def look(self, now: float, is_waited_on: bool) -> Stage | None:
        """See how things are; returns the stage when it is a new one.

        Args:
            now: of the clock that it was begun with.
            is_waited_on: whether connections wait in the queues.
        """
        if now < self.due:
            return None
        if self.stage is Stage.SETTLING:
            self.stage = Stage.EMPTYING
            self._until = now + LONGEST_EMPTYING
        if self.stage is Stage.EMPTYING:
            if is_waited_on and now < self._until:
                self.due = now + LOOK
                return None
            self.stage, self.due = Stage.RELEASED, now + RELEASING
            return self.stage
        self.stage = Stage.OVER
        return self.stage
