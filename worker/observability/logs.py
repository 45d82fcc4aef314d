"""The error log, in nginx's form: time, level, pid, text.

The master writes directly, and without waiting: it forks, which does not go well with threads. A worker hands its lines
to a thread, for a slow disk must not stop the event loop; that thread is started after the fork.
"""

import logging
from pathlib import Path

from worker.observability.line_file import LineFile
from worker.observability.line_writer import LineWriter

LOGGERS = ("propylon", "asyncio")
THREAD_PATIENCE = 1.0  # seconds that a worker's thread waits for a pipe that is full
MAX_QUEUED_LINES = 10_000
NOTICE = 25
LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": NOTICE,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "crit": logging.CRITICAL,
}
_NAMES = {level: name for name, level in LEVELS.items()}


class _Format(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s [%(nginx_level)s] %(process)d#%(name)s: %(message)s", "%Y/%m/%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.nginx_level = _NAMES.get(record.levelno, record.levelname.lower())
        return super().format(record)


class _Handler(logging.Handler):
    """Hands over what the loggers say, as lines."""

    def __init__(self, log: "ErrorLog") -> None:
        super().__init__()
        self.log = log
        self.setFormatter(_Format())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # a mistake in a call of the log must not keep its caller from going on
            record.msg, record.args, record.exc_info = f"{record.msg!r} {record.args!r}: {error}", None, None
            line = self.format(record)
        self.log.write(f"{line}\n")


class ErrorLog:
    """What is behind the ``propylon`` loggers of one process, and behind asyncio's."""

    def __init__(self, path: Path | None, level: str, in_thread: bool) -> None:
        """Log to a file, or to standard error, from now on; what the loggers had before is closed.

        ``in_thread`` is for a worker: it waits neither for the disk nor for the file to be there, since its master has
        had it.

        Raises:
            OSError: the file cannot be opened, and ``in_thread`` is not given.
        """
        self._file = LineFile(path, THREAD_PATIENCE if in_thread else 0.0, recovered=self._recovered)
        try:
            self._file.open()
        except OSError:
            if not in_thread:
                self._file.close()
                raise
        self._handler = _Handler(self)
        self._writer = LineWriter(self._file, "error-log", MAX_QUEUED_LINES) if in_thread else None
        for name in LOGGERS:
            logger = logging.getLogger(name)
            logger.propagate = False
            logger.setLevel(LEVELS[level])
            old, logger.handlers = logger.handlers, [self._handler]
            for handler in old:
                if isinstance(handler, _Handler):
                    if not in_thread:  # in the child of a fork the log is a copy, whose losses its owner tells
                        self._file.take_over(handler.log._file)
                    handler.log.close()

    def fileno(self) -> int:
        """Return the descriptor of the file, which stays the same when it is opened anew."""
        return self._file.fd

    def write(self, line: str) -> None:
        """Append a line, with its end."""
        if self._writer is not None:
            self._writer.put((line,))
        else:
            self._file.write(line.encode("utf-8", "backslashreplace"))

    def reopen(self) -> None:
        """Open the file anew by its name, after it was moved away; a worker's thread does it, and tells nobody.

        Raises:
            OSError: it cannot be opened; the old one stays in use.
        """
        if self._writer is not None:
            self._writer.reopen()
        else:
            self._file.open()

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._file.close()

    def _recovered(self, lost: int, reason: str) -> None:
        text = "%d lines of this log were lost: %s"
        record = logging.LogRecord("propylon.log", logging.WARNING, "", 0, text, (lost, reason), None)
        self._file.write(f"{self._handler.format(record)}\n".encode("utf-8", "backslashreplace"))
