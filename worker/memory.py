"""How much memory a process has."""

import contextlib
import os

_STATM = "/proc/self/statm"
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Memory:
    """Our resident memory; made after the fork of the process that it is asked about."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        # Kept open: reading procfs does not block, while opening a path may wait for other file systems' locks.
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)

    def resident(self) -> int:
        """Return it in bytes, shared pages included (proc(5)); 0 without procfs. A few microseconds."""
        try:
            return int(os.pread(self._fd, 128, 0).split()[1]) * _PAGE
        except OSError:
            return 0

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
