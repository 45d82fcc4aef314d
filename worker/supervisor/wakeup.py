"""Wakeup: signals as bytes on a socket, so that one poll waits for them and for everything else."""

import signal
import socket
from collections.abc import Iterable


class Wakeup:
    """The signals that a process has received; nothing is done in their handlers."""

    def __init__(self, handled: Iterable[signal.Signals]) -> None:
        """Receive these from now on."""
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in handled:
            signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        """Return the descriptor to be polled."""
        return self._read.fileno()

    def sockets(self) -> list[socket.socket]:
        """Return what a child must not keep."""
        return [self._read, self._write]

    def received(self) -> list[signal.Signals]:
        """Return the signals that have come, in order; only when there are any."""
        return [signal.Signals(number) for number in self._read.recv(4096)]
