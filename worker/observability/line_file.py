"""LineFile: a file that lines are appended to, whatever becomes of it.

Writing never raises, and never waits for longer than ``patience``: a full disk, a directory that is gone, a pipe
that nobody reads cost lines, which are counted, and nothing else. Once a second it is tried again, by the file's name
when it is not the medium that refuses. Only a regular file on a disk that hangs can make us wait, in the kernel; who
must not wait at all writes in a thread (``line_writer``).
"""

import contextlib
import os
import select
import stat
import time
from collections.abc import Callable
from errno import ENXIO
from pathlib import Path

RETRY = 1.0  # seconds between two tries to open the file
LOOK = 1.0  # seconds between two looks whether the file has been deleted
TELL = 10.0  # seconds between two notes that lines were lost, at least
STDERR = 2
_PIECE = 4_096  # bytes that a pipe takes as a whole or not at all (PIPE_BUF)
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class LineFile:
    """A log, by its path; ``fd`` stays the same for life, so that others may write there, too."""

    def __init__(
        self,
        path: Path | None,
        patience: float = 0.0,
        failed: Callable[[str], None] | None = None,
        recovered: Callable[[int, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare to write; the file is opened by ``open``, or else with the first line.

        Args:
            path: None for standard error.
            patience: how long to wait for a pipe that is full, in seconds.
            failed: told the reason when lines begin to be lost.
            recovered: told how many lines were lost, and why the last of them, when they can be written again.
            clock: monotonic seconds.
        """
        self.path = path
        self.fd = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self.lost = 0  # lines, not told of yet
        self._reason = ""
        self._patience = patience
        self._failed = failed
        self._recovered = recovered
        self._clock = clock
        self._is_usable = False  # something is open that lines may go to …
        self._is_due = True  # … but it is to be opened by its name, for the first time or anew
        self._is_regular = False
        self._is_well = True  # the last write went through
        self._rest = b""  # of a line that has been written in part
        self._retry_at = 0.0
        self._look_at = 0.0
        self._tell_at = 0.0

    def open(self) -> None:
        """Open the file by its name, for the first time or anew.

        Raises:
            OSError: it cannot be opened; what was open stays in use, and another try is made with every second's lines.
        """
        now = self._clock()
        self._retry_at = now + RETRY
        self._look_at = now + LOOK
        try:
            fresh = _open_stderr() if self.path is None else _open_path(self.path)
        except OSError as error:
            self._is_due = True
            self._reason = error.strerror or str(error)
            raise
        os.dup2(fresh, self.fd, inheritable=False)
        os.close(fresh)
        self._is_regular = stat.S_ISREG(os.fstat(self.fd).st_mode)
        self._is_usable, self._is_due = True, False
        if self._rest:
            self._rest = b""
            self.lost += 1

    def write(self, lines: bytes) -> None:
        """Append whole lines, as many as there is room for; the others are lost."""
        now = self._clock()
        self._see_to_the_file(now)
        data = self._rest + lines
        written = self._append(data)
        if written == len(data):
            self._rest = b""
            self._is_well = True
            if self.lost and now >= self._tell_at:
                self._tell_at = now + TELL
                self._tell()
            return
        was_cut = data[written - 1 : written] != b"\n" if written else self._rest != b""
        left = data[written:]
        self._rest = left[: left.find(b"\n") + 1] if was_cut else b""
        self.lose(left.count(b"\n") - bool(self._rest), self._reason)

    def lose(self, count: int, reason: str) -> None:
        """Count lines that are lost."""
        self.lost += count
        self._reason = reason
        if self._is_well:
            self._is_well = False
            if self._failed is not None:
                self._failed(reason)

    def take_over(self, other: "LineFile") -> None:
        """Tell in place of another what it has lost."""
        self.lost, other.lost = self.lost + other.lost, 0
        self._reason = other._reason

    def close(self) -> None:
        """Close it for good."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._is_usable = False

    def _tell(self) -> None:
        lost, self.lost = self.lost, 0
        if self._recovered is not None:
            self._recovered(lost, self._reason)

    def _see_to_the_file(self, now: float) -> None:
        if self._is_usable and self._is_regular and self.path is not None and now >= self._look_at:
            self._look_at = now + LOOK
            if os.fstat(self.fd).st_nlink == 0:
                self._is_usable, self._is_due = False, True
                self._reason = "the file has been deleted"
        if self._is_due and now >= self._retry_at and self.fd >= 0:
            with contextlib.suppress(OSError):
                self.open()

    def _append(self, data: bytes) -> int:
        """Write as much as is taken, and return how many bytes that is."""
        at = 0
        while at < len(data) and self._is_usable:
            try:
                if self._is_regular:
                    at += os.write(self.fd, memoryview(data)[at:])
                elif self._is_taken():
                    at += os.write(self.fd, _piece(data, at))
                else:
                    self._reason = "nobody takes what is written"
                    break
            except BlockingIOError:
                continue  # another process was quicker
            except OSError as error:
                self._reason = error.strerror or str(error)
                self._is_due = True  # perhaps it is another one by now that has this name
                break
        return at

    def _is_taken(self) -> bool:
        """Wait until there is room in a pipe; not, when that was in vain the last time."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(self._patience * 1000 if self._is_well else 0))


def check_writable(path: Path) -> None:
    """See that a file can be opened for appending, which makes it; without waiting for anybody who reads a pipe.

    Raises:
        OSError: it cannot be opened.
    """
    os.close(_open_path(path))


def _piece(data: bytes, at: int) -> bytes:
    """Return what to write at once: whole lines, so that those of several processes do not mix."""
    if len(data) - at <= _PIECE:
        return data[at:]
    end = data.rfind(b"\n", at, at + _PIECE)
    return data[at : end + 1] if end >= 0 else data[at : at + _PIECE]


def _open_path(path: Path) -> int:
    try:
        return os.open(path, _FLAGS | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno == ENXIO and stat.S_ISFIFO(os.stat(path).st_mode):
            # Nobody reads the FIFO yet; what it holds until then is not lost.
            return os.open(path, _FLAGS & ~os.O_WRONLY | os.O_RDWR)
        raise


def _open_stderr() -> int:
    """Open standard error anew: its other users must not find that it does not block any more."""
    kind = os.fstat(STDERR).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{STDERR}", _FLAGS)
    return os.dup(STDERR)
