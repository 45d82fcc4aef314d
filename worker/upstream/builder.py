"""UpstreamBuilder: makes of a configured upstream what exchanges use."""

import logging
from typing import TYPE_CHECKING

from config_sync import schema
from worker.upstream.balancing import Balancing
from worker.upstream.peer import DEFAULT_PORTS, Peer, Upstream
from worker.upstream.pool import PoolKey, Pools

if TYPE_CHECKING:
    from worker.http.http1_client import Http1Client

log = logging.getLogger("propylon.switcher")

DEFAULT_POOL = schema.KeepalivePool()
SUPPORTED_SCHEMES = frozenset(("http",))


class UpstreamBuilder:
    """Builds upstreams, and gives back the pools they used."""

    def __init__(self, pools: "Pools[Http1Client]", balancing: Balancing) -> None:
        """Take peers' connections from ``pools``, and balancers from ``balancing``."""
        self._pools = pools
        self._balancing = balancing

    def build(self, id_: str, config: schema.Upstream, previous: Upstream | None = None) -> Upstream:
        """Build an upstream; what is not available is logged, and its requests are refused.

        Args:
            id_: names it in logs.
            config: as decoded.
            previous: the same upstream before its change; what is known of nodes that stay is taken over.
        """
        peers = [peer for node in config.nodes or () if (peer := self._build_peer(id_, config, node)) is not None]
        if config.nodes is None:
            log.error("upstream %s: discovery_type %s is not available", id_, config.discovery_type)
        balancer, queue = self._balancing.build(id_, config, peers, previous)
        return Upstream(
            id_,
            peers,
            balancer,
            config.retries,
            config.retry_timeout,
            config.timeout,
            config.pass_host,
            config.upstream_host,
            queue,
        )

    def _build_peer(self, id_: str, config: schema.Upstream, node: schema.Node) -> Peer | None:
        if config.scheme not in SUPPORTED_SCHEMES:
            log.error("upstream %s: scheme %s is not available; node %s is left out", id_, config.scheme, node.host)
            return None
        port = node.port or DEFAULT_PORTS[config.scheme]
        limits = config.keepalive_pool or DEFAULT_POOL
        key = PoolKey(config.scheme, node.host, port, limits.size, limits.idle_timeout, limits.requests)
        max_conns = config.max_conns if node.max_conns is None else node.max_conns
        return Peer(node.host, port, node.weight, node.priority, self._pools.use(key), config.scheme, max_conns)

    def discard(self, upstream: Upstream | None) -> None:
        """Give back what an upstream used that no new request will find."""
        if upstream is not None:
            for peer in upstream.peers:
                self._pools.leave(peer.pool)
