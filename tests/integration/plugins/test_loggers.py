"""Loggers and tracers of a real gateway: what waits is sent before a worker ends."""

import json
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.processes import Etcd, Gateway, wait_until
from tests.fakes.upstream import Upstream

REQUESTS = 20
NEVER = {"inactive_timeout": 600, "buffer_duration": 600}


class Collector:
    """An HTTP server that keeps what is posted, by path."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, Any]] = []
        posted = self.posted

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posted.append((self.path, json.loads(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def at(self, path: str) -> list[Any]:
        """Return the bodies that were posted to a path."""
        return [body for found, body in self.posted if found == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class SyslogServer:
    """Takes lines by TCP, as a syslog server does."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        lines = self.lines

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                lines.extend(self.rfile)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def syslog() -> Iterator[SyslogServer]:
    made = SyslogServer()
    yield made
    made.close()


def plugins(collector: Collector, syslog: SyslogServer, directory: Path) -> dict[str, Any]:
    base = f"http://127.0.0.1:{collector.port}"
    return {
        "http-logger": {"uri": f"{base}/logs", **NEVER},
        "syslog": {"host": "127.0.0.1", "port": syslog.port, **NEVER},
        "file-logger": {"path": str(directory / "requests.log")},
        "opentelemetry": {"sampler": {"name": "always_on"}},
        "zipkin": {"endpoint": f"{base}/spans", "sample_ratio": 1},
    }


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM])
def test_what_waits_is_sent_before_a_worker_ends(
    number: signal.Signals, etcd: Etcd, gateway: Gateway, upstream: Upstream, collector: Collector, syslog: SyslogServer
) -> None:
    nodes = {"nodes": {f"127.0.0.1:{upstream.port}": 1}}
    spans = {"batch_timeout": 600, "inactive_timeout": 600}
    metadata = {"collector": {"address": f"127.0.0.1:{collector.port}"}, "batch_span_processor": spans}
    etcd.put("plugin_metadata/opentelemetry", metadata)
    revision = etcd.put(
        "routes/logged", {"uri": "/logged", "upstream": nodes, "plugins": plugins(collector, syslog, gateway.directory)}
    )
    gateway.applied(revision)
    for _ in range(REQUESTS):
        assert gateway.get("/logged")[0] == 200
    before = gateway.workers()
    if number == signal.SIGHUP:
        gateway.signal(number)
        wait_until(lambda: not before & gateway.workers(), "the old workers are gone")
    else:
        assert gateway.stop(number) == 0
    logs = [entry for body in collector.at("/logs") for entry in body]
    assert [entry["route_id"] for entry in logs] == ["logged"] * REQUESTS
    wait_until(lambda: len(syslog.lines) == REQUESTS, "all lines are there")
    assert all(line.startswith(b"<46>1 ") for line in syslog.lines)
    lines = (gateway.directory / "requests.log").read_text().splitlines()
    assert [json.loads(line)["request"]["uri"] for line in lines] == ["/logged"] * REQUESTS
    traces = [
        span
        for body in collector.at("/v1/traces")
        for resource in body["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert [span["name"] for span in traces] == ["GET /logged"] * REQUESTS
    names = [span["name"] for body in collector.at("/spans") for span in body]
    assert names.count("apisix.request") == names.count("apisix.proxy") == REQUESTS


def test_a_file_that_was_moved_is_opened_anew(etcd: Etcd, gateway: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    path = tmp_path / "requests.log"
    nodes = {"nodes": {f"127.0.0.1:{upstream.port}": 1}}
    gateway.applied(
        etcd.put("routes/f", {"uri": "/f", "upstream": nodes, "plugins": {"file-logger": {"path": str(path)}}})
    )

    def count() -> int:
        return len(path.read_text().splitlines()) if path.exists() else 0

    for _ in range(REQUESTS):
        gateway.get("/f")
    wait_until(lambda: count() == REQUESTS, "all lines are there")
    path.rename(tmp_path / "moved.log")
    gateway.signal(signal.SIGUSR1)
    wait_until(path.exists, "it is opened anew")
    for _ in range(REQUESTS):
        gateway.get("/f")
    wait_until(
        lambda: count() + len((tmp_path / "moved.log").read_text().splitlines()) == 2 * REQUESTS, "all are there"
    )


def test_a_collector_that_hangs_does_not_hold_up_the_end(etcd: Etcd, gateway: Gateway, upstream: Upstream) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        logger = {"http-logger": {"uri": uri, "timeout": 60, "batch_max_size": 1}}
        nodes = {"nodes": {f"127.0.0.1:{upstream.port}": 1}}
        gateway.applied(etcd.put("routes/h", {"uri": "/h", "upstream": nodes, "plugins": logger}))
        began = time.monotonic()
        for _ in range(REQUESTS):
            assert gateway.get("/h")[0] == 200
        assert time.monotonic() - began < 10
        assert gateway.stop(signal.SIGTERM) == 0
