"""SwitcherStaging: very many changes prepared aside, then switched at one instant.

Routes, upstreams and services are built as their changes come in. Up to ``IN_PLACE`` routes then go into the live
router one by one; for more, a second router is filled in steps and takes the live one's place. What has been
replaced is put away in steps, too: to free 100,000 routes takes as long as some hundred requests.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from config_sync import schema
from config_sync.cache import Change
from worker.collector import Pause
from worker.routing.route import Route
from worker.routing.router import Router
from worker.upstream.peer import ServiceCell, Upstream, UpstreamCell

if TYPE_CHECKING:
    from worker.switcher import Switcher

IN_PLACE = 256  # routes entered in the commit itself: about 2 ms
PORTION = 16  # routes between two steps


class SwitcherStaging:
    """Changes on their way into a switcher."""

    def __init__(self, switcher: "Switcher") -> None:
        self._switcher = switcher
        self._ssls: dict[str, schema.Ssl | None] = {}
        self._upstreams: dict[str, Upstream | None] = {}
        self._services: dict[str, tuple[schema.Service | None, UpstreamCell | None]] = {}
        self._routes: dict[str, Route | None] = {}
        self._disabled: dict[str, Route] = {}  # until the end: those of the changes; then all
        self._aside: _Aside | None = None
        self._old_upstreams: list[Upstream] = []
        self._old_routes: list[Route] = []
        self._pause = Pause()

    def add(self, changes: Sequence[Change]) -> None:
        """Build what changes bring."""
        switcher = self._switcher
        self._pause_collector()
        for directory, id_, new in changes:
            if directory == "routes":
                self._disabled.pop(id_, None)
                self._routes[id_] = switcher.build_route(id_, new, self._disabled)
            elif directory == "upstreams":
                self._upstreams[id_] = switcher.build_upstream(id_, new)
            elif directory == "ssls":
                self._ssls[id_] = new
            elif directory == "services":
                cell = switcher.service_cell(id_).upstream
                self._services[id_] = new, switcher.build_cell("services", id_, new, cell)

    def _pause_collector(self) -> None:
        if len(self._routes) > IN_PLACE:
            self._pause.begin()

    def finish(self) -> Iterator[None]:
        """Settle which hosts routes have, and fill a router aside if they are many."""
        yield from self._settle_hosts()
        yield from self._settle_disabled()
        if len(self._routes) > IN_PLACE:
            self._aside = _Aside(self._switcher.router, self._switcher.routes, self._routes)
            yield from self._aside.fill()

    def _settle_hosts(self) -> Iterator[None]:
        """Give the new routes the hosts of their services, and copies of old ones new hosts."""
        for at, route in enumerate(self._routes.values()):
            if route is not None and route.inherits_hosts and route.service is not None:
                route.hosts = self._hosts_of(route.service)
            if at % PORTION == PORTION - 1:
                yield
        switcher = self._switcher
        for id_, (service, _) in self._services.items():
            hosts = service.hosts if service is not None else ()
            if hosts == switcher.service_cell(id_).hosts:
                continue
            for at, heir in enumerate(tuple(switcher.routes_of_service.get(id_, ()))):
                live = switcher.routes[heir]
                if live.inherits_hosts and heir not in self._routes:
                    self._routes[heir] = live.with_hosts(hosts)
                if at % PORTION == PORTION - 1:
                    self._pause_collector()
                    yield

    def _settle_disabled(self) -> Iterator[None]:
        """Add those that stay switched off."""
        for at, (id_, route) in enumerate(self._switcher.disabled.items()):
            if id_ not in self._routes:
                self._disabled[id_] = route
            if at % PORTION == PORTION - 1:
                yield

    def _hosts_of(self, cell: ServiceCell) -> tuple[str, ...]:
        if cell.id not in self._services:
            return cell.hosts
        service, _ = self._services[cell.id]
        return service.hosts if service is not None else ()

    def commit(self) -> None:
        """Put everything in place."""
        switcher = self._switcher
        for id_, ssl in self._ssls.items():
            switcher.builder.tls.ssl_changed(id_, ssl)
        for id_, upstream in self._upstreams.items():
            old_upstream = switcher.put_upstream(id_, upstream)
            if old_upstream is not None:
                self._old_upstreams.append(old_upstream)
        switcher.disabled = self._disabled
        for id_, (service, cell_of_service) in self._services.items():
            self._switch_service(switcher.service_cell(id_), service, cell_of_service)
        if self._aside is None:
            for id_, route in self._routes.items():
                old = switcher.replace_route(id_, route)
                if old is not None:
                    self._old_routes.append(old)
        else:
            self._aside.switch(switcher)

    def _switch_service(self, cell: ServiceCell, service: schema.Service | None, own: UpstreamCell | None) -> None:
        old = cell.upstream
        if old is not None and old.is_inline and old.current is not None:
            self._old_upstreams.append(old.current)
            old.current = None  # or its discovery would go on to replace it
        self._switcher.put_service(cell, service, own)
        cell.hosts = service.hosts if service is not None else ()

    def clean(self) -> Iterator[None]:
        """Give back what the old objects used, and free them."""
        switcher = self._switcher
        while self._old_upstreams:
            switcher.builder.discard(self._old_upstreams.pop())
            yield
        if self._aside is not None:
            yield from self._aside.clean(self._old_routes)
        while self._old_routes:
            old = self._old_routes.pop()
            # A copy with other hosts has taken the cell over. What is live by now may be another one again.
            successor = self._routes.get(old.id)
            if successor is None or successor.upstream is not old.upstream:
                switcher.discard_cell(old.upstream)
            del old, successor
            yield
        self._routes.clear()
        self._aside = None
        self._pause.end()

    def drop(self) -> None:
        """Give back what the new objects use."""
        builder = self._switcher.builder
        for upstream in self._upstreams.values():
            builder.discard(upstream)
        for _, cell in self._services.values():
            self._switcher.discard_cell(cell)
        for route in self._routes.values():
            if route is not None:
                self._switcher.discard_cell(route.upstream)
        self._upstreams.clear()
        self._services.clear()
        self._routes.clear()
        self._pause.end()


class _Aside:
    """A second router, and the tables that go with it."""

    def __init__(self, router: Router, live: dict[str, Route], changed: dict[str, Route | None]) -> None:
        self._live = live
        self._changed = changed
        self._router = router.empty()
        self._routes: dict[str, Route] = {}
        self._routes_of_service: dict[str, set[str]] = {}

    def fill(self) -> Iterator[None]:
        """Enter the routes that stay and those that are new."""
        changed = self._changed
        for at, (id_, route) in enumerate(self._live.items()):
            if id_ not in changed:
                self._enter(route)
            if at % PORTION == PORTION - 1:
                yield
        for at, new in enumerate(changed.values()):
            if new is not None:
                self._enter(new)
            if at % PORTION == PORTION - 1:
                yield

    def _enter(self, route: Route) -> None:
        self._router.add(route)
        self._routes[route.id] = route
        if route.service is not None:
            self._routes_of_service.setdefault(route.service.id, set()).add(route.id)

    def switch(self, switcher: "Switcher") -> None:
        """Take the live tables' place; from then on this holds the old ones."""
        switcher.router.exchange_tables(self._router)
        self._routes, switcher.routes = switcher.routes, self._routes
        switcher.routes_of_service = self._routes_of_service
        switcher.shadows.touch_all()

    def clean(self, old_routes: list[Route]) -> Iterator[None]:
        """Take the old tables apart; routes that are no more are appended to ``old_routes``."""
        yield from self._router.dismantle()
        while self._routes:
            id_, route = self._routes.popitem()
            if id_ in self._changed:
                old_routes.append(route)
            if len(self._routes) % PORTION == 0:
                yield
