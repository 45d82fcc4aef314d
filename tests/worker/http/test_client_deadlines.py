"""When a client is too slow, and when it is not the client that is waited for."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from config_sync.cache import ConfigStore
from config_sync.settings import Settings
from tests.fakes.client_transport import ClientTransport
from worker.context import WorkerContext
from worker.http.http1_server import Http1Server
from worker.routing.pattern import Pattern
from worker.routing.route import Route
from worker.upstream.peer import Upstream, UpstreamCell
from worker.upstream.queue import Queue

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
LATER = 30.0  # seconds; the limit for a body is 10


class Full:
    """A balancer that has no peer with room."""

    def next(self, *_: object) -> None:
        """Choose none."""


class Router:
    """Leads to an upstream in whose queue everybody waits."""

    version = 0

    def __init__(self) -> None:
        upstream = Upstream("u", [], cast("Any", Full()), None, 0, None, "pass", None, Queue("u", 10, 60))
        self._route = Route("1", (Pattern("/*"),), (), frozenset(), 0, upstream=UpstreamCell("u", upstream))

    def match(self, _: object) -> Route:
        """Return the only route."""
        return self._route


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ClientTransport]:
    """Connect a client."""
    settings = Settings(runtime_dir=str(tmp_path), access_log=False, client_body_timeout=10.0)
    transport = ClientTransport()
    with asyncio.Runner() as runner:

        async def connect() -> WorkerContext:
            context = WorkerContext(settings, asyncio.get_running_loop(), ConfigStore())
            context.router = cast("Any", Router())
            transport.connection = Http1Server(context)
            transport.connection.connection_made(cast("asyncio.Transport", transport))
            return context

        context = runner.run(connect())
        transport.runner = runner
        yield transport
        transport.connection.connection_lost(None)
        context.builder.close()


def send(client: ClientTransport, data: bytes) -> None:
    async def receive() -> None:
        client.connection.data_received(data)

    client.runner.run(receive())


def wait(client: ClientTransport, seconds: float) -> None:
    context = client.connection.context
    context.now += seconds
    client.connection.check_deadlines(context.now)


def test_a_body_that_does_not_come(client: ClientTransport) -> None:
    send(client, HEAD + b"\r\nhel")
    wait(client, LATER)
    assert client.written.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_has_not_been_asked_for(client: ClientTransport) -> None:
    send(client, HEAD + b"Expect: 100-continue\r\n\r\n")
    wait(client, LATER)
    assert client.written == b""
    exchange = client.connection._exchange
    assert exchange is not None
    assert exchange.body is not None
    exchange.body._send_continue()
    wait(client, 0.0)
    assert client.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    wait(client, LATER)
    assert b"HTTP/1.1 408 " in client.written
