"""The serving part of a worker, with real sockets, in a thread of its own: no master, no store, one upstream."""

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

import uvloop

from config_sync.cache import ConfigStore
from config_sync.schema import Timeout
from config_sync.schema import Upstream as Config
from config_sync.settings import Settings
from tests.fakes.processes import PATIENCE, wait_until
from worker.context import WorkerContext
from worker.http.http1_server import Http1Server
from worker.routing.pattern import Pattern
from worker.routing.route import Route
from worker.upstream.balancers.roundrobin import RoundRobin
from worker.upstream.peer import Peer, Upstream, UpstreamCell

T = TypeVar("T")


class RunningWorker:
    """Serves from ``with`` to its end on ``port``; every request goes to 127.0.0.1 on ``upstream_port``."""

    def __init__(self, directory: Path, upstream_port: int, scheme: str = "http", **settings: Any) -> None:
        self._settings = Settings(runtime_dir=str(directory), access_log=False, **settings)
        self._node = upstream_port
        self._scheme = scheme
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._started = threading.Event()
        self.context: WorkerContext
        self.port = 0

    def __enter__(self) -> "RunningWorker":
        self._thread.start()
        assert self._started.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        loop = self.loop
        context = self.context = WorkerContext(self._settings, loop, ConfigStore())
        config = Config(scheme=cast("Any", self._scheme))
        pool = context.builder._transport.use(config, "127.0.0.1", self._node)
        nodes = [Peer("127.0.0.1", self._node, 1, 0, pool)]
        upstream = Upstream("u", nodes, RoundRobin(nodes), None, 1, Timeout(5, 5, 60), "pass", None)
        cell = UpstreamCell("u", upstream)
        context.router.add(Route("1", (Pattern("/*"),), (), frozenset(), 0, upstream=cell, websocket=True))
        context._janitor.start()  # and nothing else: the collector is the whole test's
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        server = loop.run_until_complete(loop.create_server(lambda: Http1Server(context), sock=listener))
        self._started.set()
        try:
            loop.run_forever()
        finally:
            server.close()
            context.close()
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def connect(self, receive_buffer: int = 0) -> socket.socket:
        """Open a client connection that is taken in; with a small ``receive_buffer`` little is on its way."""
        count = self.context.accepted
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", self.port))
        wait_until(lambda: self.context.accepted > count, "the connection is taken in")
        return sock

    def call(self, function: Callable[[], T]) -> T:
        """Call something in the worker's thread."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def wait_idle(self) -> None:
        """Wait until no client is left."""
        wait_until(lambda: self.call(self.context.is_idle), "no client is left")
