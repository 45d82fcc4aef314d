"""Switcher: turns changed configuration into what requests use, and puts it in place.

It listens to the store and is told of the changes of one instant together. Routes go into the router one by
one. Upstreams and services are reached through cells: however many routes use an upstream, its replacement is
one assignment. A request that has begun keeps the objects it found.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from config_sync import schema
from config_sync.cache import Change, ConfigStore
from worker.routing.route import AddressCondition, Pattern, Route
from worker.routing.router import Router
from worker.upstream import balancers
from worker.upstream.peer import DEFAULT_PORTS, Peer, ServiceCell, Upstream, UpstreamCell
from worker.upstream.pool import PoolKey, Pools

if TYPE_CHECKING:
    from worker.http.http1_client import Http1Client

log = logging.getLogger("propylon.switcher")

DEFAULT_POOL = schema.KeepalivePool()
SUPPORTED_SCHEMES = frozenset(("http",))


class Switcher:
    """Keeps router and upstreams equal to the configuration."""

    def __init__(self, store: ConfigStore, router: Router, pools: "Pools[Http1Client]", seed: int = 0) -> None:
        """Listen to a store; what it already holds is taken over at once."""
        self._router = router
        self._pools = pools
        self._seed = seed
        self._routes: dict[str, Route] = {}
        self._configured: dict[str, schema.Route] = {}
        self._routes_of_service: dict[str, set[str]] = {}
        self._upstreams: dict[str, UpstreamCell] = {}
        self._services: dict[str, ServiceCell] = {}
        self._kinds: dict[str, Callable[[Change], None]] = {
            "upstreams": self._upstream_changed,
            "services": self._service_changed,
            "routes": self._route_changed,
        }
        store.subscribe(self.changed)

    def changed(self, changes: Sequence[Change]) -> None:
        """Put changes in place; called by the store, between two requests."""
        for change in changes:
            apply = self._kinds.get(change.directory)
            if apply is not None:
                apply(change)

    # upstreams

    def _upstream_changed(self, change: Change) -> None:
        cell = self._upstream_cell(change.id)
        self._replace(cell, change.new if isinstance(change.new, schema.Upstream) else None)

    def _upstream_cell(self, id_: str) -> UpstreamCell:
        cell = self._upstreams.get(id_)
        if cell is None:
            cell = self._upstreams[id_] = UpstreamCell(id_)
        return cell

    def _replace(self, cell: UpstreamCell, config: schema.Upstream | None) -> None:
        old = cell.current
        cell.current = self._build_upstream(cell.id, config) if config is not None else None
        if old is not None:
            for peer in old.peers:
                self._pools.leave(peer.pool)

    def _build_upstream(self, id_: str, config: schema.Upstream) -> Upstream:
        peers = [peer for node in config.nodes or () if (peer := self._build_peer(id_, config, node)) is not None]
        try:
            balancer = balancers.build(config.type, peers, self._seed)
        except KeyError:
            log.error("upstream %s: type %s is not available; its requests are answered with 503", id_, config.type)
            balancer = None
        if config.nodes is None:
            log.error("upstream %s: discovery_type %s is not available", id_, config.discovery_type)
        return Upstream(
            id_,
            peers,
            balancer,
            config.retries,
            config.retry_timeout,
            config.timeout,
            config.pass_host,
            config.upstream_host,
        )

    def _build_peer(self, id_: str, config: schema.Upstream, node: schema.Node) -> Peer | None:
        if config.scheme not in SUPPORTED_SCHEMES:
            log.error("upstream %s: scheme %s is not available; node %s is left out", id_, config.scheme, node.host)
            return None
        port = node.port or DEFAULT_PORTS[config.scheme]
        limits = config.keepalive_pool or DEFAULT_POOL
        key = PoolKey(config.scheme, node.host, port, limits.size, limits.idle_timeout, limits.requests)
        return Peer(node.host, port, node.weight, node.priority, self._pools.use(key), config.scheme)

    # services

    def _service_cell(self, id_: str) -> ServiceCell:
        cell = self._services.get(id_)
        if cell is None:
            cell = self._services[id_] = ServiceCell(id_)
        return cell

    def _service_changed(self, change: Change) -> None:
        cell = self._service_cell(change.id)
        config = change.new if isinstance(change.new, schema.Service) else None
        cell.exists = config is not None
        cell.upstream = self._switch_upstream(cell.upstream, f"service/{change.id}", config)
        hosts = config.hosts if config is not None else ()
        if hosts != cell.hosts:
            cell.hosts = hosts
            for id_ in sorted(self._routes_of_service.get(change.id, ())):
                self._enter(id_, self._configured[id_])

    def _switch_upstream(
        self, old: UpstreamCell | None, owner: str, config: schema.Service | schema.Route | None
    ) -> UpstreamCell | None:
        """Return the cell a route or service uses from now on: shared by id, or its own for an inline one."""
        own = old if old is not None and old.id == owner else None
        if config is None or config.upstream_id is not None or config.upstream is None:
            if own is not None:
                self._replace(own, None)
            return self._upstream_cell(config.upstream_id) if config is not None and config.upstream_id else None
        own = own or UpstreamCell(owner)
        self._replace(own, config.upstream)
        return own

    # routes

    def _route_changed(self, change: Change) -> None:
        config = change.new if isinstance(change.new, schema.Route) else None
        before = self._configured.pop(change.id, None)
        if before is not None and before.service_id is not None:
            self._routes_of_service[before.service_id].discard(change.id)
        if config is None or config.status == 0:
            self._leave(change.id)
            return
        self._configured[change.id] = config
        if config.service_id is not None:
            self._routes_of_service.setdefault(config.service_id, set()).add(change.id)
        self._enter(change.id, config)

    def _enter(self, id_: str, config: schema.Route) -> None:
        if config.vars:
            # A condition that is not understood must not be taken for fulfilled.
            log.error("route %s: vars are not available; the route is left out", id_)
            self._leave(id_)
            return
        if config.plugins or config.plugin_config_id:
            log.warning("route %s: plugins are not available and do not run", id_)
        old = self._routes.get(id_)
        route = self._build_route(id_, config, old)
        if old is not None:
            self._router.remove(old)
        self._router.add(route)
        self._routes[id_] = route

    def _leave(self, id_: str) -> None:
        old = self._routes.pop(id_, None)
        if old is not None:
            self._router.remove(old)
            self._switch_upstream(old.upstream, f"route/{id_}", None)

    def _build_route(self, id_: str, config: schema.Route, old: Route | None) -> Route:
        service = self._service_cell(config.service_id) if config.service_id is not None else None
        return Route(
            id_,
            tuple(Pattern(uri) for uri in config.uris),
            config.hosts or (service.hosts if service is not None else ()),
            frozenset(method.encode() for method in config.methods),
            config.priority,
            AddressCondition(config.remote_addrs) if config.remote_addrs else None,
            self._switch_upstream(old.upstream if old is not None else None, f"route/{id_}", config),
            service,
            config.timeout,
        )
