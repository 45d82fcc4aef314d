"""A small server to have something behind the gateway: it tells what it was asked.

Run it alone with ``python -m conf.demo.upstream PORT NAME``.
"""

import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    """Answers every request with its request line, its Host and the name of the server."""

    protocol_version = "HTTP/1.1"
    # Head and body leave in one segment; otherwise Nagle's algorithm holds the second back for 40 ms.
    wbufsize = -1
    server: "DemoUpstream"

    def answer(self) -> None:
        """Read the request's body and answer."""
        if "Transfer-Encoding" in self.headers:
            # http.server does not read chunks, so what follows the head cannot be told from the next request.
            self.close_connection = True
        size = len(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        text = f"{self.server.name} was asked: {self.command} {self.path}, Host {self.headers.get('Host')}"
        body = f"{text}, {size} bytes of body\n".encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815

    def version_string(self) -> str:
        """Return the Server header's value."""
        return "propylon-demo-upstream"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Write nothing: the gateway has an access log."""


class DemoUpstream(ThreadingHTTPServer):
    """Serves ``Echo`` on loopback, a thread for each connection."""

    daemon_threads = True

    def __init__(self, port: int, name: str) -> None:
        """Listen on 127.0.0.1:port."""
        super().__init__(("127.0.0.1", port), Echo)
        self.name = name


if __name__ == "__main__":
    DemoUpstream(int(sys.argv[1]), sys.argv[2]).serve_forever()
