"""A service that others are asked of: HTTP/1.1 in threads of its own, with answers made by a function."""

import contextlib
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import aiohttp  # noqa: F401 - who asks imports it, and must not do so while the clock runs


class Asked(NamedTuple):
    """A request; the names of fields are in lower case."""

    method: str
    path: str
    fields: dict[str, str]
    body: bytes


class HttpService:
    """Answers with status and body; ``asked`` is what it was."""

    def __init__(self, answer: Callable[[Asked], tuple[int, bytes]]) -> None:
        self.delay = 0.0  # seconds before an answer, until ``release``
        self.asked: list[Asked] = []
        self._released = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                fields = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(fields.get("content-length", "0")))
                asked = Asked(self.command, self.path, fields, body)
                service.asked.append(asked)
                if service.delay:
                    service._released.wait(service.delay)
                status, content = answer(asked)
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def release(self) -> None:
        """Answer whoever waits, and delay nobody any more."""
        self.delay = 0.0
        self._released.set()

    def close(self) -> None:
        """Stop it."""
        self.release()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
