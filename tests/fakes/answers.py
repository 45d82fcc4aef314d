"""A router, and where it leads every request that a test's values tell apart."""

from itertools import product
from typing import TYPE_CHECKING

from tests.fakes.upstreams import upstream_builder
from tests.worker.routing.making import ask
from worker.errors import ProxyError
from worker.http.serve import upstream_of
from worker.routing.router import build_router
from worker.upstream.pool import Pools

if TYPE_CHECKING:
    from worker.http.http1_client import Http1Client

PATHS = ("/", "/a", "/a/b", "/a/b/c", "/b", "/b/c", "/z")
HOSTS = ("a.com", "b.com", "c.org")
METHODS = ("GET", "POST")


class Answers:
    """Asks a router whose upstreams ``builder`` has built; they take their connections from ``pools``."""

    def __init__(self) -> None:
        self.router = build_router("radixtree_host_uri")
        self.pools: Pools[Http1Client] = Pools()
        self.builder = upstream_builder(self.pools)

    def to(self, path: str, host: str = "a.com", method: str = "GET") -> tuple[str, tuple[str, ...]] | None:
        """Return id and peers of where a request is led; for peers the error, when a reference leads nowhere."""
        route = self.router.match(ask(path, host, method, "127.0.0.1"))
        if route is None:
            return None
        try:
            return route.id, tuple(map(repr, upstream_of(route).peers))
        except ProxyError as error:
            return route.id, (type(error).__name__,)

    def all(self) -> dict[tuple[str, str, str], tuple[str, tuple[str, ...]] | None]:
        """Return the answer to every request."""
        return {asked: self.to(*asked) for asked in product(PATHS, HOSTS, METHODS)}

    def pool_users(self) -> dict[str, int]:
        """Return how many peers use each pool; pools that nobody uses are gone."""
        return {f"{key.host}:{key.port}": pool.users for key, pool in self.pools._pools.items()}
