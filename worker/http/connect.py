"""Opening an upstream connection: the one step of an exchange that costs a Task, because it is rare."""

import asyncio
from typing import TYPE_CHECKING

from worker.errors import ConnectFailed, ConnectTimeout, ProxyError
from worker.exchange import Exchange, suspend
from worker.http.http1_client import Http1Client

if TYPE_CHECKING:
    from worker.context import WorkerContext
    from worker.upstream.peer import Peer


class Connecting:
    """A connection being opened for an exchange, which may be gone when it is there."""

    __slots__ = ("_client", "_exchange", "_peer", "_task", "_timed_out", "_timer")

    def __init__(self, context: "WorkerContext", exchange: Exchange, peer: "Peer", connect_timeout: float) -> None:
        """Begin to connect; the exchange is resumed or failed within ``connect_timeout`` seconds."""
        self._exchange = exchange
        self._peer = peer
        self._client = Http1Client(context, peer.pool)
        self._timed_out = False
        loop = context.loop
        self._task = loop.create_task(loop.create_connection(lambda: self._client, peer.host, peer.port))
        self._task.add_done_callback(self._done)
        self._timer = loop.call_later(connect_timeout, self._expired)

    def _expired(self) -> None:
        self._timed_out = True
        self._task.cancel()

    def _done(self, task: "asyncio.Task[tuple[asyncio.Transport, Http1Client]]") -> None:
        self._timer.cancel()
        wanted = self._exchange.waiting is self
        error: ProxyError
        if task.cancelled():
            error = ConnectTimeout(f"no connection to {self._peer!r} in time")
        elif task.exception() is not None:
            error = ConnectFailed(f"cannot connect to {self._peer!r}: {task.exception()}")
        elif self._client.is_closed():
            error = ConnectFailed(f"{self._peer!r} closed the connection at once")
        else:
            if wanted:
                self._exchange.resume(self._client)
            else:
                self._client.close()
            return
        if wanted:
            self._exchange.fail(error)


async def connect(context: "WorkerContext", exchange: Exchange, peer: "Peer", connect_timeout: float) -> Http1Client:
    """Open a connection to a peer; ``connect_timeout`` in seconds.

    Raises:
        ConnectFailed: refused, unreachable, or an unknown name.
        ConnectTimeout: not within the time.
    """
    exchange.waiting = Connecting(context, exchange, peer, connect_timeout)
    client = await suspend()
    assert isinstance(client, Http1Client)  # noqa: S101 - narrows the type of what _done hands over
    return client
