"""The error log, in nginx's form: time, level, pid, text.

The master writes directly. A worker hands its records to a thread, for a full disk or a slow terminal must not
stop the event loop; that thread is started after the fork.
"""

import logging
import sys
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from queue import SimpleQueue

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


class ErrorLog:
    """The handlers behind the ``propylon`` loggers of one process."""

    def __init__(self, path: Path | None, level: str, in_thread: bool) -> None:
        """Log to a file, or to standard error; ``in_thread`` keeps the caller from waiting.

        Raises:
            OSError: the file cannot be opened.
        """
        self._file = logging.FileHandler(path, encoding="utf-8") if path is not None else None
        handler = self._file or logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Format())
        self._listener: QueueListener | None = None
        logger = logging.getLogger("propylon")
        logger.propagate = False
        logger.setLevel(LEVELS[level])
        if in_thread:
            queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
            self._listener = QueueListener(queue, handler)
            self._listener.start()
            logger.handlers = [QueueHandler(queue)]
        else:
            logger.handlers = [handler]

    def reopen(self) -> None:
        """Open the file anew by its name, after it was moved away.

        Raises:
            OSError: it cannot be opened; the old one stays in use.
        """
        if self._file is not None:
            fresh = Path(self._file.baseFilename).open("a", encoding="utf-8")  # noqa: SIM115 - the handler closes it
            old = self._file.setStream(fresh)
            if old is not None:
                old.close()

    def close(self) -> None:
        """Write what is left."""
        if self._listener is not None:
            self._listener.stop()
        if self._file is not None:
            self._file.close()
