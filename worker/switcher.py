"""Switcher: turns changed configuration into what requests use, and puts it in place.

It listens to the store and is told of the changes of one instant together. Routes go into the router one by
one. Upstreams and services are reached through cells: however many routes use an upstream, its replacement is
one assignment. A request that has begun keeps the objects it found. Very many changes at once are prepared aside
(``worker.staging``).
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from weakref import WeakValueDictionary

from config_sync import schema
from config_sync.cache import Change, ConfigStore
from config_sync.errors import ConfigError
from worker.routing.conditions import compile_condition
from worker.routing.route import AddressCondition, Condition, Route
from worker.routing.router import Router
from worker.routing.shadows import Shadows
from worker.staging import SwitcherStaging
from worker.upstream.builder import UpstreamBuilder
from worker.upstream.peer import DeferredCell, ServiceCell, SharedCell, Upstream, UpstreamCell

log = logging.getLogger("propylon.switcher")

NO_METHODS: frozenset[bytes] = frozenset()


class Switcher:
    """Keeps router and upstreams equal to the configuration."""

    def __init__(self, store: ConfigStore, router: Router, builder: UpstreamBuilder) -> None:
        """Listen to a store that is still empty; upstreams are built by ``builder``."""
        self.router = router
        self.builder = builder
        self._store = store
        self.routes: dict[str, Route] = {}
        self.disabled: dict[str, Route] = {}  # ``status`` 0; not in the router
        self.shadows = Shadows(router, lambda: self.routes)
        self.routes_of_service: dict[str, set[str]] = {}  # of those that have a service
        # Those that exist, and those that something refers to: of ids that come and go nothing stays.
        self._upstreams: WeakValueDictionary[str, SharedCell] = WeakValueDictionary()
        self._services: WeakValueDictionary[str, ServiceCell] = WeakValueDictionary()
        self._existing: dict[tuple[str, str], UpstreamCell | ServiceCell] = {}  # by directory and id
        self._methods: dict[frozenset[str], frozenset[bytes]] = {}
        self._kinds: dict[str, Callable[[Change], None]] = {
            "ssls": self._ssl_changed,
            "upstreams": self._upstream_changed,
            "services": self._service_changed,
            "routes": self._route_changed,
        }
        store.subscribe(self.changed, self.stage, self._weigh)

    def changed(self, changes: Sequence[Change]) -> None:
        """Put changes in place; called by the store, between two requests."""
        for change in changes:
            apply = self._kinds.get(change.directory)
            if apply is not None:
                apply(change)

    def stage(self) -> SwitcherStaging:
        """Begin to prepare changes aside."""
        return SwitcherStaging(self)

    def _weigh(self, directory: str, id_: str) -> int:
        """Count the routes that have to be entered anew when a service gets other hosts."""
        return len(self.routes_of_service.get(id_, ())) if directory == "services" else 0

    # client certificates

    def _ssl_changed(self, change: Change) -> None:
        self.builder.tls.ssl_changed(change.id, change.new)

    # upstreams

    def upstream_cell(self, id_: str) -> UpstreamCell:
        """Return the place of an upstream, whether it exists or not."""
        cell = self._upstreams.get(id_)
        if cell is None:
            cell = self._upstreams[id_] = SharedCell(id_)
        return cell

    def put_upstream(self, id_: str, upstream: Upstream | None) -> Upstream | None:
        """Put an upstream, or nothing, in the place of an older one, which is returned."""
        cell = self.upstream_cell(id_)
        old = cell.current
        cell.put(upstream)
        self._keep("upstreams", cell, upstream is not None)
        return old

    def _keep(self, directory: str, cell: UpstreamCell | ServiceCell, exists: bool) -> None:
        if exists:
            self._existing[directory, cell.id] = cell
        else:
            self._existing.pop((directory, cell.id), None)

    def _upstream_changed(self, change: Change) -> None:
        self.builder.discard(self.put_upstream(change.id, self.build_upstream(change.id, change.new)))

    def build_upstream(self, id_: str, config: schema.Upstream | None) -> Upstream | None:
        """Build an upstream that has an id of its own, to take the place of the one it has now."""
        if config is None:
            return None
        return self.builder.build(id_, config, self.upstream_cell(id_).current)

    def build_cell(
        self, directory: str, id_: str, config: schema.Service | schema.Route | None, old: UpstreamCell | None
    ) -> UpstreamCell | None:
        """Return the cell that a route or service is to use: shared by id, or its own for an inline upstream.

        ``old`` is the one it has used until now.
        """
        if config is None:
            return None
        if config.upstream_id is not None:
            return self.upstream_cell(config.upstream_id)
        if config.upstream is None:
            return None
        owner = id_ if directory == "routes" else f"service/{id_}"
        previous = old.current if old is not None and old.is_inline else None
        if previous is None and directory == "routes" and self.builder.can_wait(config.upstream):
            return DeferredCell(id_, self._build_deferred)
        upstream = self.builder.build(owner, config.upstream, previous, f"{directory}/{id_}")
        return UpstreamCell(owner, upstream, is_inline=True)

    def build_for_plugin(self, owner: str, config: schema.Upstream) -> UpstreamCell:
        """Return the cell of an upstream that is written in a plugin's configuration; the plugin gives it back."""
        return UpstreamCell(owner, self.builder.build(owner, config, None, owner), is_inline=True)

    def _build_deferred(self, cell: DeferredCell) -> Upstream | None:
        """Build the inline upstream of a live route; of one that has been replaced nobody would give it back."""
        route = self.routes.get(cell.id)
        config: schema.Route | None = self._store.value("routes", cell.id)
        if route is None or route.upstream is not cell or config is None or config.upstream is None:
            return None
        return self.builder.build(cell.id, config.upstream, None, f"routes/{cell.id}")

    def discard_cell(self, cell: UpstreamCell | None) -> None:
        """Give back what a cell used that belonged to a route or service alone."""
        if cell is not None and cell.is_inline:
            self.builder.discard(cell.current)

    # services

    def service_cell(self, id_: str) -> ServiceCell:
        """Return the place of a service, whether it exists or not."""
        cell = self._services.get(id_)
        if cell is None:
            cell = self._services[id_] = ServiceCell(id_)
        return cell

    def _service_changed(self, change: Change) -> None:
        cell = self.service_cell(change.id)
        old = cell.upstream
        self.put_service(cell, change.new, self.build_cell("services", change.id, change.new, old))
        self.discard_cell(old)
        hosts = change.new.hosts if change.new is not None else ()
        if hosts != cell.hosts:
            cell.hosts = hosts
            for id_ in tuple(self.routes_of_service.get(change.id, ())):
                route = self.routes[id_]
                if route.inherits_hosts:
                    self._enter(route.with_hosts(hosts))

    def put_service(self, cell: ServiceCell, config: schema.Service | None, upstream: UpstreamCell | None) -> None:
        """Let a service, or nothing, be in its place; its hosts are the caller's concern."""
        cell.exists = config is not None
        cell.websocket = config.enable_websocket if config is not None else None
        cell.has_plugins = config is not None and bool(config.plugins)
        cell.upstream = upstream
        self._keep("services", cell, config is not None)

    # routes

    def _route_changed(self, change: Change) -> None:
        self.disabled.pop(change.id, None)
        route = self.build_route(change.id, change.new, self.disabled)
        old = self.replace_route(change.id, route)
        if old is not None:
            self.discard_cell(old.upstream)

    def replace_route(self, id_: str, route: Route | None) -> Route | None:
        """Put a route, or nothing, in the place of an older one, which is returned."""
        old = self._leave(id_)
        if route is not None:
            self._enter(route)
        return old

    def _enter(self, route: Route) -> None:
        self._leave(route.id)
        self.router.add(route)
        self.routes[route.id] = route
        self.shadows.touch(route)
        if route.service is not None:
            self.routes_of_service.setdefault(route.service.id, set()).add(route.id)

    def _leave(self, id_: str) -> Route | None:
        old = self.routes.pop(id_, None)
        if old is None:
            return None
        self.router.remove(old)
        self.shadows.touch(old)
        if old.service is not None:
            forget(self.routes_of_service, old)
        return old

    def build_route(self, id_: str, config: schema.Route | None, disabled: dict[str, Route]) -> Route | None:
        """Make a route of its configuration; None when it takes no part in matching.

        One that is switched off is put into ``disabled``.
        """
        if config is None:
            return None
        if config.status == 0:
            disabled[id_] = self._compile(id_, config, None, True)
            return None
        try:
            condition, repeatable = compile_condition(config.vars)
        except ConfigError as error:
            # A condition that is not understood must not be taken for fulfilled.
            log.error("route %s: $.vars: %s; the route is left out", id_, error)
            return None
        return self._compile(id_, config, condition, repeatable)

    def _compile(self, id_: str, config: schema.Route, condition: Condition | None, repeatable: bool) -> Route:
        service = self.service_cell(config.service_id) if config.service_id is not None else None
        old = self.routes.get(id_)
        old_cell = old.upstream if old is not None else None
        cell = self.build_cell("routes", id_, config, old_cell) if config.status else None
        return Route(
            id_,
            tuple(self.router.pattern(uri) for uri in config.uris),
            config.hosts or (service.hosts if service is not None else ()),
            self._encoded(config.methods),
            config.priority,
            AddressCondition(config.remote_addrs) if config.remote_addrs else None,
            cell,
            service,
            config.timeout,
            inherits_hosts=service is not None and not config.hosts,
            condition=condition,
            repeatable=repeatable,
            websocket=config.enable_websocket,
            has_plugins=bool(config.plugins) or config.plugin_config_id is not None,
            plugin_config_id=config.plugin_config_id,
        )

    def _encoded(self, methods: Iterable[str]) -> frozenset[bytes]:
        """Return methods as bytes; equal sets are one object, however many routes have them."""
        if not methods:
            return NO_METHODS
        texts = frozenset(methods)
        found = self._methods.get(texts)
        if found is None:
            found = self._methods[texts] = frozenset(method.encode() for method in texts)
        return found


def forget(routes_of_service: dict[str, set[str]], route: Route) -> None:
    """Take a route out of the index by service."""
    if route.service is None:
        return
    ids = routes_of_service[route.service.id]
    ids.discard(route.id)
    if not ids:
        del routes_of_service[route.service.id]
