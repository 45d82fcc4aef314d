"""DiscoveredNodes: what ties one upstream to the service that has its nodes."""

import logging
from typing import TYPE_CHECKING

from config_sync import schema
from worker.discovery.registry import DiscoveryRegistry, Nodes
from worker.exchange import Exchange, suspend

if TYPE_CHECKING:
    from worker.upstream.builder import UpstreamBuilder
    from worker.upstream.peer import UpstreamCell

log = logging.getLogger("propylon.discovery")


class DiscoveredNodes:
    """The nodes of one configured upstream; a change of them builds that upstream anew, and nothing else."""

    __slots__ = ("_builder", "_built", "_cell", "_registry", "config", "id", "resource", "service")

    def __init__(
        self,
        id_: str,
        resource: str,
        config: schema.Upstream,
        registry: DiscoveryRegistry,
        builder: "UpstreamBuilder",
    ) -> None:
        """Watch the service that ``config`` names.

        Raises:
            UnknownDiscovery: it cannot be watched.
        """
        self.id = id_
        self.resource = resource  # the key below the prefix whose value holds the upstream
        self.config = config
        self._registry = registry
        self._builder = builder
        self._cell: UpstreamCell | None = None
        self._built: Nodes | None = None
        self.service = registry.subscribe(config, self.changed)

    def take(self) -> Nodes:
        """Return the nodes to build of; what differs from them later is a change."""
        self._built = self.service.nodes
        return self._built or ()

    @property
    def problem(self) -> str:
        """Why there are no nodes."""
        return f"{self.service!r} {self.service.problem}".rstrip()

    def placed(self, cell: "UpstreamCell") -> None:
        """Note where the upstream stands, and bring it up to date if it has waited to be put there."""
        self._cell = cell
        self.changed()

    def changed(self) -> None:
        """Build the upstream of the present nodes and put it in place; requests under way keep the old one."""
        cell = self._cell
        if cell is None or self._built is self.service.nodes:
            return
        old = cell.current
        if old is None or old.discovered is not self:
            return  # it has been replaced, and is about to be discarded
        try:
            cell.current = self._builder.rebuild(self, old)
        except Exception:  # nodes from outside must not cost other upstreams theirs
            log.exception("upstream %s cannot be built of the nodes of %r", self.id, self.service)
            return
        old.discovered = None  # the new one has it
        self._builder.discard(old)

    def close(self) -> None:
        """Hear no more of the service."""
        self._cell = None
        self._registry.unsubscribe(self.service, self.changed)


async def first_nodes(exchange: Exchange, discovered: DiscoveredNodes) -> None:
    """Wait until something is known of a service that has just been configured."""
    service = discovered.service
    if service.is_pending:
        service.waiting.append(exchange)
        exchange.waiting = service
        await suspend()
