"""Transport: which pool the connections to a node come from, so what they have in common (upstreams.md section 5)."""

from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from config_sync import schema
from worker.upstream.endpoint import Endpoint
from worker.upstream.pool import Pool, PoolKey, Pools
from worker.upstream.pool_by_host import PoolByHost
from worker.upstream.resolver import Resolver
from worker.upstream.tls import TlsProfile, TlsProfiles, server_name

if TYPE_CHECKING:
    from worker.http.http1_client import Http1Client

DEFAULT_POOL = schema.KeepalivePool()


class Transport:
    """Finds pools by what shapes a connection, and makes those that there are not yet."""

    def __init__(self, pools: "Pools[Http1Client]", resolver: Resolver, tls: TlsProfiles) -> None:
        """Take pools from ``pools``; names are looked up by ``resolver``, certificates are those of ``tls``."""
        self.pools = pools
        self.resolver = resolver
        self.tls = tls

    def use(self, config: schema.Upstream, host: str, port: int) -> "Pool[Http1Client]":
        """Return the pool of a node, counting one more user of it; ``host`` as configured, ``port`` filled in."""
        limits = config.keepalive_pool or DEFAULT_POOL
        bare = host.removeprefix("[").removesuffix("]").lower()
        key = PoolKey(config.scheme, bare, port, limits.size, limits.idle_timeout, limits.requests)
        if config.scheme != "https":
            return self.pools.use(key) if is_address(bare) else self.pools.use(key, self._make_plain)
        certificate, profile = self.tls.profile(config.tls)
        sni: str | None = None
        if config.pass_host == "node":
            sni = server_name(host.encode())
        elif config.pass_host == "rewrite" and config.upstream_host:
            sni = server_name(config.upstream_host.encode())
        key = key._replace(sni=sni, certificate=certificate, verify=profile.verify)

        def make(of: PoolKey) -> "Pool[Http1Client]":
            return self._make_tls(of, profile)

        if sni is None:
            return self.pools.use(key, lambda of: PoolByHost(of, make))
        return self.pools.use(key, make)

    def _make_plain(self, key: PoolKey) -> "Pool[Http1Client]":
        lookup = self.resolver.lookup(key.host)
        pool: Pool[Http1Client] = Pool(key, Endpoint(key.host, lookup))
        lookup.pools.add(pool)
        return pool

    def _make_tls(self, key: PoolKey, profile: TlsProfile) -> "Pool[Http1Client]":
        lookup = None if is_address(key.host) else self.resolver.lookup(key.host)
        endpoint = Endpoint(key.host, lookup, profile, key.sni or "", self.tls)
        pool: Pool[Http1Client] = Pool(key, endpoint)
        profile.pools.add(pool)
        if lookup is not None:
            lookup.pools.add(pool)
        return pool

    def close(self) -> None:
        """Look nothing up any more."""
        self.resolver.close()


@lru_cache(maxsize=8192)
def is_address(host: str) -> bool:
    """Tell whether a node is given by its address; the others are names."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
