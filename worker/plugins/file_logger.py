"""Writes a line of JSON for each request into a file.

    path     of the file; it is opened anew when it has been deleted, and on USR1. Here or in the metadata
    match    expressions of which one must be true; without: every request

A thread writes, some tenths of a second later; what a slow or full disk does not take is lost, and counted in the
error log. For the fields that say what is written see ``logger``; batches have no meaning here.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from worker.observability.line_file import LineFile
from worker.observability.line_writer import LineWriter
from worker.observability.logs import THREAD_PATIENCE
from worker.plugins.base import Scope
from worker.plugins.logger import ContentConfig, Logger, LoggerMetadata
from worker.routing.expressions import compile_expression

if TYPE_CHECKING:
    from worker.exchange import Exchange

log = logging.getLogger("propylon.plugins")

MOST_LINES = 256  # that wait for the thread to be given them …
SOON = 0.1  # … or so many seconds
MOST_LISTS = 200


class FileLoggerConfig(ContentConfig):
    """What is written where."""

    path: str | None = None
    match: list[list[Any]] = msgspec.field(default_factory=list)


class FileLoggerMetadata(LoggerMetadata):
    """What holds for all uses of it."""

    path: str | None = None


class FileLogger(Logger[FileLoggerConfig]):
    """Writes lines."""

    name = "file-logger"
    priority = 399
    Config = FileLoggerConfig
    Metadata = FileLoggerMetadata

    def __init__(self, config: FileLoggerConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        path = config.path or scope.metadata.path
        self._conditions = [compile_expression(each, f"$.match[{at}]") for at, each in enumerate(config.match)]
        self._loop = scope.services.loop
        self._lines: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._path = path
        self._writer: LineWriter | None = None
        if not path:
            log.error("%s: file-logger has no path, here or in its metadata, and writes nothing", scope.key)
            return
        file = LineFile(Path(path), THREAD_PATIENCE, self._failed, self._recovered)
        self._writer = LineWriter(file, "file-logger", MOST_LISTS)
        self._writer.reopen()
        scope.services.on_reopen.append(self.reopen)

    @classmethod
    def check(cls, config: Any) -> None:
        """Check the expressions."""
        super().check(config)
        for at, expression in enumerate(config.match):
            compile_expression(expression, f"$.match[{at}]")

    def log(self, exchange: "Exchange") -> None:
        """Write a line."""
        if self._writer is None:
            return
        if self._conditions and not any(holds(exchange) for holds in self._conditions):
            return
        self._lines.append(self.entry(exchange).decode() + "\n")
        if len(self._lines) >= MOST_LINES:
            self._hand_over()
        elif self._timer is None:
            self._timer = self._loop.call_later(SOON, self._hand_over)

    def reopen(self) -> None:
        """Open the file anew by its name."""
        self._hand_over()
        if self._writer is not None:
            self._writer.reopen()

    def close(self) -> None:
        """Write what is left; what requests under way add is lost."""
        self._hand_over()
        on_reopen = self.scope.services.on_reopen
        if self.reopen in on_reopen:
            on_reopen.remove(self.reopen)
        super().close()
        if self._writer is not None:
            self._loop.run_in_executor(None, self._writer.close)  # it waits for the disk
            self._writer = None

    async def send(self, batch: Sequence[bytes]) -> None:
        """There are no batches."""

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines and self._writer is not None:
            self._writer.put(self._lines)
        self._lines = []

    # the thread's part

    def _failed(self, reason: str) -> None:
        log.error("%s cannot be written: %s; its lines are lost until it can", self._path, reason)

    def _recovered(self, lost: int, reason: str) -> None:
        log.warning("%s is written again; %d lines were lost: %s", self._path, lost, reason)
