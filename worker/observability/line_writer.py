"""LineWriter: a thread that writes lines to a LineFile, so that a slow disk holds up nobody else."""

import contextlib
import threading
from collections.abc import Sequence
from enum import Enum
from queue import SimpleQueue

from worker.observability.line_file import LineFile

JOIN = 5.0  # seconds that ``close`` waits for the last lines


class _Task(Enum):
    REOPEN = "open the file anew"
    CLOSE = "close it and end"


class LineWriter:
    """Takes lists of lines and writes them in turn; of more than ``limit`` lists that wait, the others are dropped."""

    __slots__ = ("_dropped", "_file", "_limit", "_queue", "_thread")

    def __init__(self, file: LineFile, name: str, limit: int) -> None:
        """Begin; the thread has a name, and the file is the thread's from now on."""
        self._file = file
        self._limit = limit
        self._dropped = 0  # lines, since the beginning
        self._queue: SimpleQueue[Sequence[str] | _Task] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, lines: Sequence[str]) -> None:
        """Hand over lines, each with its end; never waits."""
        if self._queue.qsize() >= self._limit:
            self._dropped += len(lines)
        else:
            self._queue.put(lines)

    def reopen(self) -> None:
        """Open the file anew by its name, after what was handed over before."""
        self._queue.put(_Task.REOPEN)

    def close(self) -> None:
        """Write what is left, and end; what cannot be written soon is given up."""
        self._queue.put(_Task.CLOSE)
        self._thread.join(JOIN)

    def _run(self) -> None:
        told = 0
        while True:
            task = self._queue.get()
            dropped = self._dropped
            if dropped > told:
                self._file.lose(dropped - told, "it is written too slowly")
                told = dropped
            if task is _Task.CLOSE:
                self._file.close()
                return
            if task is _Task.REOPEN:
                with contextlib.suppress(OSError):  # told by the next line
                    self._file.open()
            else:
                self._file.write("".join(task).encode("utf-8", "backslashreplace"))
