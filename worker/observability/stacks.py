"""The stacks of a worker that hangs, in the error log.

A signal makes the interpreter write them from its C code, so it needs neither the event loop nor the log's thread.
"""

import faulthandler
import signal
import sys
from pathlib import Path
from typing import TextIO

DUMP_SIGNAL = signal.SIGUSR2  # of workers; to a master it means something else


class StackDumps:
    """Writes the stacks of all threads when ``DUMP_SIGNAL`` comes."""

    def __init__(self, path: Path | None) -> None:
        """Write to a file, or to standard error.

        Raises:
            OSError: the file cannot be opened.
        """
        self._path = path
        self._file: TextIO | None = None
        self.reopen()

    def reopen(self) -> None:
        """Open the file anew by its name, after it was moved away.

        Raises:
            OSError: it cannot be opened; the old one stays in use.
        """
        fresh = self._path.open("a", encoding="utf-8") if self._path is not None else None
        faulthandler.register(DUMP_SIGNAL, fresh or sys.stderr, all_threads=True)
        if self._file is not None:
            self._file.close()
        self._file = fresh

    def close(self) -> None:
        """Write no more, and ignore the signal."""
        faulthandler.unregister(DUMP_SIGNAL)
        signal.signal(DUMP_SIGNAL, signal.SIG_IGN)
        if self._file is not None:
            self._file.close()
            self._file = None
