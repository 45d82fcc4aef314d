"""What is kept of a request's body: its first bytes in memory, the rest in a temporary file.

Threads of the event loop's executor touch the file, one job at a time, and the loop only hands over and collects. A
body that arrives faster than the disk takes it makes the spool ``congested``, until its owner is told by ``changed``.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

MAX_QUEUED_BYTES = 1 << 20  # on their way to the file


class Spool:
    """Bytes that can be read again from the start; appended to and read by the event loop's thread."""

    __slots__ = (
        "_changed",
        "_closed",
        "_directory",
        "_file",
        "_is_busy",
        "_limit",
        "_loop",
        "_memory",
        "_queue",
        "_queued",
        "_wanted",
        "error",
        "size",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, directory: Path) -> None:
        """Keep everything in memory until ``spill`` is called, and files below ``directory``."""
        self._loop = loop
        self._limit = -1
        self._directory = directory
        self._memory = bytearray()
        self._file: BinaryIO | None = None
        self._queue: list[bytes] = []
        self._queued = 0
        self._is_busy = False  # a thread has the file
        self._wanted: tuple[int, int, Callable[[bytes], None]] | None = None
        self._closed = False
        self._changed: Callable[[], None] | None = None
        self.size = 0
        self.error: OSError | None = None  # why the file cannot be used; then nothing can be read again

    @property
    def congested(self) -> bool:
        """Whether too much waits for the disk."""
        return self._queued > MAX_QUEUED_BYTES

    @property
    def in_memory(self) -> bytearray | None:
        """All bytes, if none of them is in a file; not to be kept, it grows."""
        return self._memory if self.size == len(self._memory) else None

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call back when the spool is no longer congested, or cannot be used any more."""
        self._changed = changed

    def spill(self, limit: int) -> None:
        """Put what comes beyond ``limit`` bytes into a file from now on; what is in memory stays there."""
        self._limit = max(limit, self.size) if self._limit < 0 else self._limit

    def append(self, data: bytes) -> None:
        """Keep more bytes."""
        self.size += len(data)
        if self._limit < 0 or self.size <= self._limit:
            self._memory += data
        elif self.error is None:
            room = self._limit - len(self._memory)
            if room:
                self._memory += data[:room]
                data = data[room:]
            self._queue.append(data)
            self._queued += len(data)
            self._work()

    def read(self, at: int, count: int, received: Callable[[bytes], None]) -> bytes | None:
        """Return at most ``count`` of the bytes from ``at``, or None: then ``received`` gets them later.

        There is at least one. Only one read may be under way. After an error of the file ``received`` is not called,
        but ``changed`` is.
        """
        if at < len(self._memory):
            return bytes(self._memory[at : at + count])
        self._wanted = at - len(self._memory), count, received
        self._work()
        return None

    def close(self) -> None:
        """Forget everything; nobody is called back any more."""
        self._closed = True
        self._memory = bytearray()
        self._queue = []
        self._queued = 0
        self._wanted = None
        self._changed = None
        if not self._is_busy:
            self._close_file()

    def _work(self) -> None:
        """Give the next job to a thread: what waits is written before anything is read."""
        if self._is_busy or self._closed or self.error is not None:
            return
        if self._queue:
            data, self._queue = self._queue, []
            job: asyncio.Future[Any] = self._loop.run_in_executor(None, self._write, data)
        elif self._wanted is not None:
            at, count, _ = self._wanted
            job = self._loop.run_in_executor(None, self._read, at, count)
        else:
            return
        self._is_busy = True
        job.add_done_callback(self._done)

    def _done(self, job: "asyncio.Future[Any]") -> None:
        self._is_busy = False
        if self._closed:
            self._close_file()
            return
        error = None if job.cancelled() else job.exception()
        if isinstance(error, OSError):
            self.error = error
            self._queue, self._queued = [], 0
            self._tell()
            return
        result = job.result()
        if isinstance(result, bytes):
            assert self._wanted is not None  # noqa: S101 - a read was asked for
            received, self._wanted = self._wanted[2], None
            received(result)
        else:
            was_congested = self.congested
            self._queued -= result
            if was_congested and not self.congested:
                self._tell()
        self._work()

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            self._loop.run_in_executor(None, file.close)  # to give the blocks of a large file back takes a while
        except RuntimeError:  # the worker ends, and takes no more jobs
            file.close()

    # in a thread

    def _write(self, pieces: list[bytes]) -> int:
        if self._file is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 - close() ends it
        count = 0
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[os.write(self._file.fileno(), view) :]
            count += len(piece)
        return count

    def _read(self, at: int, count: int) -> bytes:
        assert self._file is not None  # noqa: S101 - what is read was written
        data = os.pread(self._file.fileno(), count, at)
        if not data:
            raise OSError("the file is shorter than what was written to it")
        return data

    def __repr__(self) -> str:
        """Show the size, and how much of it is in memory."""
        return f"<Spool {self.size} bytes, {len(self._memory)} in memory>"
