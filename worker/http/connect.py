"""Opening an upstream connection: the one step of an exchange that costs a Task, because it is rare."""

import asyncio
from typing import TYPE_CHECKING

from worker.errors import ConnectFailed, ConnectTimeout, ProxyError
from worker.exchange import Exchange, suspend
from worker.http.http1_client import Http1Client

if TYPE_CHECKING:
    from worker.context import WorkerContext
    from worker.upstream.endpoint import Endpoint
    from worker.upstream.pool import Pool


class Connecting:
    """A connection being opened for an exchange, which may be gone when it is there."""

    __slots__ = ("_client", "_connect_timeout", "_exchange", "_loop", "_peer", "_pool", "_task", "_timer")

    def __init__(
        self, context: "WorkerContext", exchange: Exchange, pool: "Pool[Http1Client]", connect_timeout: float
    ) -> None:
        """Begin to connect; the exchange is resumed or failed within ``connect_timeout`` seconds.

        The time for its name to be resolved is not counted, it has a limit of its own.
        """
        self._exchange = exchange
        self._peer = exchange.peer
        self._pool = pool
        self._client = Http1Client(context, pool)
        self._connect_timeout = connect_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._loop = context.loop
        self._task = context.loop.create_task(self._open())
        self._task.add_done_callback(self._done)

    async def _open(self) -> None:
        key, endpoint = self._pool.key, self._pool.endpoint
        if endpoint is not None:
            await self._open_endpoint(endpoint, key.port)
        else:
            self._limit()
            await self._loop.create_connection(lambda: self._client, key.host, key.port)

    async def _open_endpoint(self, endpoint: "Endpoint", port: int) -> None:
        origin = await endpoint.origin(self._loop)
        self._limit()
        try:
            transport, _ = await self._loop.create_connection(
                lambda: self._client,
                origin.address,
                port,
                ssl=origin.context,
                server_hostname=origin.server_name,
            )
        except (OSError, asyncio.CancelledError):
            endpoint.failed(origin)
            raise
        origin.tls = transport.get_extra_info("ssl_object")
        self._client.origin = origin

    def _limit(self) -> None:
        self._timer = self._loop.call_later(self._connect_timeout, self._expired)

    def _expired(self) -> None:
        self._task.cancel()

    def _done(self, task: "asyncio.Task[None]") -> None:
        if self._timer is not None:
            self._timer.cancel()
        error: BaseException | None
        error = ConnectTimeout(f"no connection to {self._peer!r} in time") if task.cancelled() else task.exception()
        wanted = self._exchange.waiting is self
        if error is None and self._client.is_closed():
            error = ConnectFailed(f"{self._peer!r} closed the connection at once")
        if error is None:
            if wanted:
                self._exchange.resume(self._client)
            else:
                self._client.close()
        elif wanted:
            if not isinstance(error, ProxyError):
                error = ConnectFailed(f"cannot connect to {self._peer!r}: {error}")
            self._exchange.fail(error)


async def connect(
    context: "WorkerContext", exchange: Exchange, pool: "Pool[Http1Client]", connect_timeout: float
) -> Http1Client:
    """Open a connection to the peer of an exchange, for its pool; ``connect_timeout`` in seconds.

    Raises:
        PeerUnresolved: its name has no address.
        ConnectFailed: refused, unreachable, or TLS failed.
        ConnectTimeout: not within the time.
        CertificateMissing, CertificateInvalid: the client certificate is of no use.
    """
    exchange.waiting = Connecting(context, exchange, pool, connect_timeout)
    client = await suspend()
    assert isinstance(client, Http1Client)  # noqa: S101 - narrows the type of what _done hands over
    return client
