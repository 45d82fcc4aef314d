"""Idle upstream connections, by everything that shapes the connection.

Pools live in a registry and outlast the configuration objects that use them, so that a changed route or
upstream does not throw away connections to peers that stay. A pool whose last user has gone closes its idle
connections at once; those at work finish and are closed when they come back.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from worker.upstream.endpoint import Endpoint, Origin


class PoolKey(NamedTuple):
    """The identity of a pool: two upstreams share connections only when all of this is equal."""

    scheme: str
    host: str
    port: int
    size: int
    idle_timeout: float
    requests: int
    sni: str | None = ""  # what TLS asks for; None: what the Host of each request says
    certificate: str = ""  # identity of the client certificate
    verify: bool = False


class Connection(Protocol):
    """What a pool asks of a connection."""

    idle_since: float
    origin: "Origin | None"
    requests: int

    def close(self) -> None:
        """Close it at once."""


C = TypeVar("C", bound=Connection)


class Pool(Generic[C]):
    """The idle connections to one peer; the one used last is used next, so that the rest can expire."""

    __slots__ = ("__weakref__", "_idle", "endpoint", "key", "retired", "users")

    def __init__(self, key: PoolKey, endpoint: "Endpoint | None" = None) -> None:
        self.key = key
        self.endpoint = endpoint  # None: host and port of the key say all
        self.users = 0
        self.retired = False
        self._idle: list[C] = []

    def acquire(self) -> C | None:
        """Return an idle connection, or None: then a new one is to be opened."""
        return self._idle.pop() if self._idle else None

    def release(self, connection: C) -> bool:
        """Take back a connection that has finished; False when it is not to be kept."""
        if self.endpoint is not None and not self.endpoint.keeps(connection):
            return False
        key = self.key
        if self.retired or connection.requests >= key.requests or len(self._idle) >= key.size or not key.idle_timeout:
            return False
        self._idle.append(connection)
        return True

    def discard(self, connection: C) -> None:
        """Forget an idle connection that its peer closes; it must be told at once, for nobody asks again."""
        if connection in self._idle:
            self._idle.remove(connection)

    def expired(self, now: float) -> list[C]:
        """Take out the connections that have been idle for longer than ``idle_timeout``."""
        kept = 0
        while kept < len(self._idle) and now - self._idle[kept].idle_since > self.key.idle_timeout:
            kept += 1
        old, self._idle = self._idle[:kept], self._idle[kept:]
        return old

    def surplus(self, count: int) -> list[C]:
        """Take out the connections beyond ``count``, those that have been idle for longest."""
        old = self._idle[: max(0, len(self._idle) - count)]
        del self._idle[: len(old)]
        return old

    def weeded(self) -> list[C]:
        """Take out the connections that the endpoint does not keep: to an address that is no more, for example."""
        endpoint = self.endpoint
        if endpoint is None:
            return []
        old = [connection for connection in self._idle if not endpoint.keeps(connection)]
        self._idle = [connection for connection in self._idle if connection not in old]
        return old

    def retire(self) -> list[C]:
        """Keep nothing from now on; return what is to be closed."""
        self.retired = True
        old, self._idle = self._idle, []
        return old

    def __len__(self) -> int:
        """Count the idle connections."""
        return len(self._idle)

    def __repr__(self) -> str:
        """Show the peer and the number of idle connections."""
        return f"<Pool {self.key.host}:{self.key.port} {len(self._idle)} idle>"


class Pools(Generic[C]):
    """All pools of a worker."""

    __slots__ = ("_pools",)

    def __init__(self) -> None:
        self._pools: dict[PoolKey, Pool[C]] = {}

    def use(self, key: PoolKey, make: Callable[[PoolKey], Pool[C]] = Pool) -> Pool[C]:
        """Return the pool of a key, made by ``make`` if there is none, counting one more user of it."""
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = make(key)
        pool.users += 1
        return pool

    def leave(self, pool: Pool[C]) -> None:
        """Count one user less; without any the pool is retired."""
        pool.users -= 1
        if pool.users == 0:
            del self._pools[pool.key]
            for connection in pool.retire():
                connection.close()

    def __iter__(self) -> Iterator[Pool[C]]:
        """Walk the pools; a copy, so that they may change meanwhile."""
        return iter(list(self._pools.values()))

    def close(self) -> None:
        """Close every idle connection."""
        for pool in self._pools.values():
            for connection in pool.retire():
                connection.close()
