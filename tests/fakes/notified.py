"""Somebody who listens where a service manager would."""

import os
import socket
import time
from pathlib import Path
from types import TracebackType

from tests.fakes.processes import PATIENCE, wait_until


class Notified:
    """A notify socket: what came over it, and the descriptors in its store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[str] = []
        self.store: dict[str, int] = {}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.setblocking(False)

    def __enter__(self) -> "Notified":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._sock.close()
        for fd in self.store.values():
            os.close(fd)

    def read(self) -> list[str]:
        """Take what has come; returns all there ever was."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._sock, 4096, 16)
            except BlockingIOError:
                return self.messages
            text = data.decode()
            self.messages.append(text)
            name = text.partition("FDNAME=")[2].partition("\n")[0]
            if text.startswith("FDSTORE=1\n"):
                self.store[name] = fds[0]
            elif text.startswith("FDSTOREREMOVE=1\n"):
                os.close(self.store.pop(name))

    def await_line(self, start: str, count: int = 1) -> str:
        """Wait until so many messages have a line that begins like this; returns the last of them."""
        wait_until(lambda: len(self.having(start)) >= count, f"{count} times {start} in {self.messages}")
        return self.having(start)[count - 1]

    def having(self, start: str) -> list[str]:
        """Return the messages with a line that begins like this."""
        return [text for text in self.read() if any(line.startswith(start) for line in text.split("\n"))]

    def is_silent_of(self, start: str, seconds: float) -> bool:
        """Watch for a time whether such a line comes."""
        before, until = len(self.having(start)), time.monotonic() + min(seconds, PATIENCE)
        while time.monotonic() < until:
            if len(self.having(start)) > before:
                return False
            time.sleep(0.02)
        return True
