"""PoolByHost: the pools of a TLS peer that is asked for as many names as its clients send.

With ``pass_host: pass`` TLS asks for the client's Host (upstreams.md section 6), and a connection made for one name
must not carry requests for another. Each name gets a pool of its own.
"""

from collections.abc import Callable
from typing import TypeVar

from worker.upstream.pool import Connection, Pool, PoolKey
from worker.upstream.tls import server_name

MAX_HOSTS = 1_024  # clients choose them, so they are bounded; the oldest goes first

C = TypeVar("C", bound=Connection)


class PoolByHost(Pool[C]):
    """Holds no connection itself."""

    __slots__ = ("_by_host", "_by_name", "_make")

    def __init__(self, key: PoolKey, make: Callable[[PoolKey], Pool[C]]) -> None:
        """Have the pools of names made by ``make``."""
        super().__init__(key)
        self._make = make
        self._by_host: dict[bytes, Pool[C]] = {}
        self._by_name: dict[str, Pool[C]] = {}

    def pool(self, host: bytes) -> Pool[C]:
        """Return the pool of the name in a Host."""
        pool = self._by_host.get(host)
        return self._enter(host) if pool is None else pool

    def _enter(self, host: bytes) -> Pool[C]:
        name = server_name(host)
        pool = self._by_name.get(name)
        if pool is None:
            pool = self._by_name[name] = self._make(self.key._replace(sni=name))
            pool.retired = self.retired
        self._by_host[host] = pool
        if len(self._by_host) > MAX_HOSTS:
            self._forget(next(iter(self._by_host)))
        return pool

    def _forget(self, host: bytes) -> None:
        pool = self._by_host.pop(host)
        if pool not in self._by_host.values():
            del self._by_name[pool.key.sni or ""]
            for connection in pool.retire():
                connection.close()

    def expired(self, now: float) -> list[C]:
        """Take out the connections that have been idle for longer than ``idle_timeout``."""
        return [connection for pool in self._by_name.values() for connection in pool.expired(now)]

    def surplus(self, count: int) -> list[C]:
        """Take out the connections of each name beyond ``count``."""
        return [connection for pool in self._by_name.values() for connection in pool.surplus(count)]

    def retire(self) -> list[C]:
        """Keep nothing from now on; return what is to be closed."""
        self.retired = True
        return [connection for pool in self._by_name.values() for connection in pool.retire()]

    def __len__(self) -> int:
        """Count the idle connections."""
        return sum(map(len, self._by_name.values()))
