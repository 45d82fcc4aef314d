"""The access log: one line per exchange, as nginx's ``combined`` or as JSON.

A line is composed when the exchange has ended and put into a list; a thread of its own writes the lists to the
file, so that a slow disk holds up no request. When the thread falls far behind, lines are dropped and counted.
"""

import asyncio
import logging
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from worker.exchange import Exchange

log = logging.getLogger("propylon.access")

MAX_BUFFERED_LINES = 512
MAX_QUEUED_LISTS = 1_000


class AccessLog:
    """A file of access lines, opened for appending."""

    __slots__ = (
        "_clock",
        "_dropped",
        "_file",
        "_json",
        "_lines",
        "_path",
        "_queue",
        "_second",
        "_thread",
        "_time",
    )

    def __init__(self, path: Path, format_: str, loop: asyncio.AbstractEventLoop) -> None:
        """Open the file.

        Raises:
            OSError: it cannot be opened.
        """
        self._path = path
        self._json = format_ == "json"
        self._clock = loop.time
        self._lines: list[str] = []
        self._queue: SimpleQueue[list[str] | str] = SimpleQueue()
        self._dropped = 0
        self._second = 0
        self._time = ""
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
        self._thread = threading.Thread(target=self._write, name="access-log", daemon=True)
        self._thread.start()

    def record(self, exchange: "Exchange") -> None:
        """Add the line of an exchange that has ended."""
        self._lines.append(self._as_json(exchange) if self._json else self._combined(exchange))
        if len(self._lines) >= MAX_BUFFERED_LINES:
            self.flush()

    def flush(self) -> None:
        """Hand the lines to the writing thread."""
        if not self._lines:
            return
        if self._queue.qsize() > MAX_QUEUED_LISTS:
            self._dropped += len(self._lines)
        else:
            self._queue.put(self._lines)
            if self._dropped:
                log.warning("%d access log lines were dropped: the disk is too slow", self._dropped)
                self._dropped = 0
        self._lines = []

    def reopen(self) -> None:
        """Open the file anew by its name."""
        self.flush()
        self._queue.put("reopen")

    def close(self) -> None:
        """Write what is left and close the file."""
        self.flush()
        self._queue.put("close")
        self._thread.join(timeout=5)

    def _combined(self, exchange: "Exchange") -> str:
        request = exchange.request
        line = referer = agent = "-"
        if request is not None:
            version = "1.1" if request.version_11 else "1.0"
            line = f"{_text(request.method)} {_text(request.target)} HTTP/{version}"
            referer = _text(request.header(b"referer") or b"-")
            agent = _text(request.header(b"user-agent") or b"-")
        return (
            f"{exchange.downstream.remote_address} - - [{self._now('%d/%b/%Y:%H:%M:%S %z')}] "
            f'"{line}" {exchange.status} {exchange.bytes_sent} "{referer}" "{agent}"\n'
        )

    def _as_json(self, exchange: "Exchange") -> str:
        request = exchange.request
        entry: dict[str, object] = {
            "time_iso8601": self._now("%Y-%m-%dT%H:%M:%S%z"),
            "remote_addr": exchange.downstream.remote_address,
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

    def _write(self) -> None:
        while True:
            task = self._queue.get()
            try:
                if not isinstance(task, str):
                    self._file.write("".join(task))
                    self._file.flush()
                elif task == "reopen":
                    fresh = self._path.open("a", encoding="utf-8", errors="backslashreplace")
                    self._file.close()
                    self._file = fresh
                else:
                    self._file.close()
                    return
            except OSError as error:
                log.error("cannot write %s: %s", self._path, error)


def _text(data: bytes) -> str:
    """Escape what could forge a line or its fields, as nginx does."""
    text = data.decode("latin-1")
    if text.isprintable() and text.isascii() and '"' not in text and "\\" not in text:
        return text
    return "".join(c if " " <= c <= "~" and c not in '"\\' else f"\\x{ord(c):02X}" for c in text)
