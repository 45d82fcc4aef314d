"""A Vault with a key-value engine, as far as it is read: a server in threads of its own."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class Vault:
    """Holds what is at paths below ``/v1/``; ``asked`` are the paths and fields of requests."""

    def __init__(self, values: dict[str, Any] | None = None, token: str = "root") -> None:
        self.values = values or {}
        self.token = token
        self.status = 200
        self.body: bytes | None = None  # instead of what it holds
        self.delay = 0.0  # seconds before an answer, until ``release``
        self._released = threading.Event()
        self.asked: list[tuple[str, dict[str, str]]] = []
        vault = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                vault.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                if vault.delay:
                    vault._released.wait(vault.delay)
                status, body = vault.answer(self.path, self.headers.get("X-Vault-Token"))
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, path: str, token: str | None) -> tuple[int, bytes]:
        """Return status and body."""
        if self.body is not None or self.status != 200:
            return self.status, self.body or b"{}"
        if token != self.token:
            return 403, b'{"errors":["permission denied"]}'
        value = self.values.get(unquote(path.removeprefix("/v1/")))
        if value is None:
            return 404, b'{"errors":[]}'
        return 200, json.dumps({"lease_id": "", "renewable": False, "data": value}).encode()

    def settings(self, prefix: str = "kv/apisix", **more: Any) -> dict[str, Any]:
        """Return a record by which it is reached."""
        return {"uri": self.url, "prefix": prefix, "token": self.token, **more}

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
