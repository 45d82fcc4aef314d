"""The access log: one line per exchange, as nginx's ``combined`` or as JSON.

A line is composed when the exchange has ended and put into a list; a thread of its own writes the lists to the
file, so that a slow disk holds up no request. What cannot be written is dropped and counted (``line_file``).
"""

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from worker.observability.line_file import LineFile
from worker.observability.line_writer import LineWriter
from worker.observability.logs import THREAD_PATIENCE

if TYPE_CHECKING:
    from worker.exchange import Exchange

log = logging.getLogger("propylon.access")

MAX_BUFFERED_LINES = 512
MAX_QUEUED_LISTS = 200  # some 20 MB
TELL = 10.0  # seconds between two complaints, at least


class AccessLog:
    """A file of access lines, opened for appending."""

    __slots__ = ("_clock", "_json", "_lines", "_path", "_second", "_tell_at", "_time", "_writer")

    def __init__(self, path: Path, format_: str, loop: asyncio.AbstractEventLoop) -> None:
        """Write to a file; while it cannot be opened, that is told in the error log, and tried again."""
        self._path = path
        self._json = format_ == "json"
        self._clock = loop.time
        self._lines: list[str] = []
        self._second = 0
        self._time = ""
        self._tell_at = 0.0
        file = LineFile(path, THREAD_PATIENCE, self._failed, self._recovered)
        self._writer = LineWriter(file, "access-log", MAX_QUEUED_LISTS)
        self._writer.reopen()

    def record(self, exchange: "Exchange") -> None:
        """Add the line of an exchange that has ended."""
        self._lines.append(self._as_json(exchange) if self._json else self._combined(exchange))
        if len(self._lines) >= MAX_BUFFERED_LINES:
            self.flush()

    def flush(self) -> None:
        """Hand the lines to the writing thread."""
        if self._lines:
            self._writer.put(self._lines)
            self._lines = []

    def reopen(self) -> None:
        """Open the file anew by its name."""
        self.flush()
        self._writer.reopen()

    def close(self) -> None:
        """Write what is left and close the file."""
        self.flush()
        self._writer.close()

    # the thread's part

    def _failed(self, reason: str) -> None:
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + TELL
            log.error("%s cannot be written: %s; its lines are lost until it can", self._path, reason)

    def _recovered(self, lost: int, reason: str) -> None:
        log.warning("%s is written again; %d lines were lost: %s", self._path, lost, reason)

    def _combined(self, exchange: "Exchange") -> str:
        request = exchange.request
        line = referer = agent = "-"
        if request is not None:
            version = "1.1" if request.version_11 else "1.0"
            line = f"{_text(request.method)} {_text(request.target)} HTTP/{version}"
            referer = _text(request.header(b"referer") or b"-")
            agent = _text(request.header(b"user-agent") or b"-")
        return (
            f"{exchange.remote_address} - - [{self._now('%d/%b/%Y:%H:%M:%S %z')}] "
            f'"{line}" {exchange.status} {exchange.bytes_sent} "{referer}" "{agent}"\n'
        )

    def _as_json(self, exchange: "Exchange") -> str:
        request = exchange.request
        entry: dict[str, object] = {
            "time_iso8601": self._now("%Y-%m-%dT%H:%M:%S%z"),
            "remote_addr": exchange.remote_address,
            "status": exchange.status,
            "body_bytes_sent": exchange.bytes_sent,
            "request_time": round(self._clock() - exchange.started, 4),
            "route_id": exchange.route.id if exchange.route else "",
            "upstream_addr": repr(exchange.peer) if exchange.peer else "",
        }
        if request is not None:
            entry["request_method"] = request.method.decode("latin-1")
            entry["request_uri"] = request.target.decode("latin-1")
            entry["host"] = request.host.decode("latin-1")
            entry["http_user_agent"] = (request.header(b"user-agent") or b"").decode("latin-1")
            entry["http_referer"] = (request.header(b"referer") or b"").decode("latin-1")
        if exchange.error is not None:
            entry["error"] = str(exchange.error)
        return msgspec.json.encode(entry).decode() + "\n"

    def _now(self, pattern: str) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._time = time.strftime(pattern, time.localtime(second))
        return self._time


def _text(data: bytes) -> str:
    """Escape what could forge a line or its fields, as nginx does."""
    text = data.decode("latin-1")
    if text.isprintable() and text.isascii() and '"' not in text and "\\" not in text:
        return text
    return "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\x{ord(c):02X}" for c in text)
