"""Locks that nobody waits for: of one byte of a file each, held for some microseconds.

The kernel gives up the lock of a process that dies (fcntl(2)). One that is stopped, or not scheduled, while it holds a
lock would hold up event loops, which must not wait: they wait for ``PATIENCE`` and then go on without it, or try again
a little later (``Busy``).
"""

import fcntl
import os
import time
import weakref

PATIENCE = 0.000_5  # seconds


class Busy(Exception):
    """Somebody else holds a lock; to be tried again a little later."""


class Locks:
    """The locks of a file; for one thread of each process."""

    def __init__(self, fd: int) -> None:
        """Lock bytes of the file behind a descriptor, which is ours from now on."""
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def acquire(self, number: int, patient: bool = False) -> bool:
        """Take a lock; False when we are to go on without it.

        Raises:
            Busy: somebody else holds it, and we are ``patient``.
        """
        until = 0.0
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
            except OSError:
                now = time.monotonic()
                until = until or now + PATIENCE
                if now >= until:
                    if patient:
                        raise Busy from None
                    return False
                os.sched_yield()
            else:
                return True

    def release(self, number: int) -> None:
        """Give a lock back."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number)
