"""UpstreamBuilder: makes of a configured upstream what exchanges use."""

import logging
from typing import TYPE_CHECKING

from config_sync import schema
from worker.discovery.nodes import DiscoveredNodes
from worker.discovery.registry import DiscoveryRegistry, Nodes, UnknownDiscovery
from worker.upstream.balancing import Balancing
from worker.upstream.peer import DEFAULT_PORTS, Peer, Upstream
from worker.upstream.tls import TlsProfiles
from worker.upstream.transport import Transport, is_address

if TYPE_CHECKING:
    from worker.upstream.health.registry import CheckRegistry

log = logging.getLogger("propylon.switcher")

SUPPORTED_SCHEMES = frozenset(("http", "https"))


class UpstreamBuilder:
    """Builds upstreams, and gives back the pools they used."""

    def __init__(
        self,
        transport: Transport,
        discovery: DiscoveryRegistry,
        balancing: Balancing,
        checks: "CheckRegistry | None" = None,
    ) -> None:
        """Take peers' connections from ``transport``, their nodes from ``discovery``, balancers from ``balancing``.

        Without ``checks`` there are no health checks, whatever is configured.
        """
        self._transport = transport
        self._discovery = discovery
        self._balancing = balancing
        self._checks = checks

    @property
    def tls(self) -> TlsProfiles:
        """What connections by TLS have in common."""
        return self._transport.tls

    async def resolve(self, name: str) -> str:
        """Return the address that connections to a name go to; raises PeerUnresolved."""
        return await self._transport.resolver.lookup(name).resolved()

    def build(
        self, id_: str, config: schema.Upstream, previous: Upstream | None = None, resource: str = ""
    ) -> Upstream:
        """Build an upstream; what is not available is logged, and its requests are refused.

        Args:
            id_: names it in logs.
            config: as decoded.
            previous: the same upstream before its change; what is known of nodes that stay is taken over.
            resource: the key below the prefix whose value holds it, as ``routes/1``; that of an upstream if not given.
        """
        resource = resource or f"upstreams/{id_}"
        if config.nodes is not None:
            return self._build(id_, resource, config, config.nodes, previous)
        try:
            discovered = DiscoveredNodes(id_, resource, config, self._discovery, self)
        except UnknownDiscovery as error:
            log.error("upstream %s: %s; its requests are answered with 503", id_, error)
            return self._build(id_, resource, config, (), previous, str(error))
        return self.rebuild(discovered, previous)

    def rebuild(self, discovered: DiscoveredNodes, previous: Upstream | None) -> Upstream:
        """Build an upstream of the nodes it has by now."""
        id_, resource, config = discovered.id, discovered.resource, discovered.config
        return self._build(id_, resource, config, discovered.take(), previous, "", discovered)

    def _build(
        self,
        id_: str,
        resource: str,
        config: schema.Upstream,
        nodes: Nodes,
        previous: Upstream | None,
        problem: str = "",
        discovered: DiscoveredNodes | None = None,
    ) -> Upstream:
        peers = [peer for node in nodes if (peer := self._build_peer(id_, config, node)) is not None]
        balancer, queue = self._balancing.build(id_, config, peers, previous)
        upstream = Upstream(
            id_,
            peers,
            balancer,
            config.retries,
            config.retry_timeout,
            config.timeout,
            config.pass_host,
            config.upstream_host,
            queue,
            problem,
            discovered,
        )
        if self._checks is not None:
            self._checks.use(resource, config, upstream)
        return upstream

    def _build_peer(self, id_: str, config: schema.Upstream, node: schema.Node) -> Peer | None:
        if config.scheme not in SUPPORTED_SCHEMES:
            log.error("upstream %s: scheme %s is not available; node %s is left out", id_, config.scheme, node.host)
            return None
        port = node.port or DEFAULT_PORTS[config.scheme]
        max_conns = config.max_conns if node.max_conns is None else node.max_conns
        pool = self._transport.use(config, node.host, port)
        return Peer(node.host, port, node.weight, node.priority, pool, config.scheme, max_conns)

    def discard(self, upstream: Upstream | None) -> None:
        """Give back what an upstream used that no new request will find."""
        if upstream is None:
            return
        for peer in upstream.peers:
            self._transport.pools.leave(peer.pool)
        if upstream.checker is not None and self._checks is not None:
            self._checks.leave(upstream.checker)
        if upstream.discovered is not None:
            upstream.discovered.close()

    def can_wait(self, config: schema.Upstream) -> bool:
        """Tell whether an upstream may as well be built when it is wanted.

        Not so when it would do something before (be probed, be discovered, have names looked up), when building it
        takes long, when it takes over what is counted of nodes, or when there is something to complain of.
        """
        return (
            config.scheme == "http"
            and config.type == "roundrobin"
            and config.checks is None
            and not config.max_conns
            and config.nodes is not None
            and all(node.max_conns is None and is_address(node.host.strip("[]")) for node in config.nodes)
        )

    def prepare(self) -> None:
        """Load what takes long and will be needed for what has been built."""
        self._transport.resolver.prepare()

    def close(self) -> None:
        """Look up and discover nothing any more."""
        self._discovery.close()
        self._transport.close()
