"""Existence: whether what a series of metrics belongs to is still configured."""

from collections.abc import Callable
from typing import Any, NamedTuple

from config_sync.cache import ConfigStore

MOST_KNOWN = 20_000  # routes whose nodes, and records whose names, are remembered
_CHOOSERS = frozenset(("traffic-split", "workflow"))  # plugins that lead a route's requests elsewhere


class Origin(NamedTuple):
    """What a series belongs to; what is empty it does not depend on."""

    route: str = ""
    service: str = ""
    consumer: str = ""
    host: str = ""  # of a node of the route
    pid: int = 0  # of a worker


NOWHERE = Origin()


class _Nodes(NamedTuple):
    """Where a route leads, found in some records as they were then; ``hosts`` None: that cannot be told."""

    places: tuple[tuple[str, str], ...]
    revisions: tuple[int, ...]
    hosts: frozenset[str] | None


class Existence:
    """Looks into a store; ``is_living`` tells whether a worker with a pid is there."""

    def __init__(self, store: ConfigStore, is_living: Callable[[int], bool] = lambda _: True) -> None:
        self._store = store
        self.is_living = is_living
        self._nodes: dict[str, _Nodes] = {}
        self._names: dict[tuple[str, str], tuple[int, str]] = {}  # with the revision they are of

    def holds(self, origin: Origin) -> bool:
        """Tell whether all that a series belongs to is there."""
        caches = self._store.caches
        return (
            (not origin.route or origin.route in caches["routes"].items)
            and (not origin.service or origin.service in caches["services"].items)
            and (not origin.consumer or origin.consumer in caches["consumers"].items)
            and (not origin.pid or self.is_living(origin.pid))
            and (not origin.host or not origin.route or self._leads_to(origin.route, origin.host))
        )

    def name(self, directory: str, id_: str) -> str:
        """Return the name of a record; its id when it has none."""
        place = directory, id_
        known = self._names.get(place)
        revision = self._revision(place)
        if known is None or known[0] != revision:
            if len(self._names) >= MOST_KNOWN:
                self._names.clear()
            name = getattr(self._store.value(directory, id_), "name", None) or id_
            known = self._names[place] = revision, name
        return known[1]

    def _leads_to(self, route: str, host: str) -> bool:
        known = self._nodes.get(route)
        if known is None or known.revisions != tuple(map(self._revision, known.places)):
            if len(self._nodes) >= MOST_KNOWN:
                self._nodes.clear()
            known = self._nodes[route] = self._look(route)
        return known.hosts is None or host in known.hosts

    def _revision(self, place: tuple[str, str]) -> int:
        item = self._store.caches[place[0]].items.get(place[1])
        return item.mod_revision if item is not None else 0

    def _look(self, id_: str) -> _Nodes:
        store = self._store
        places = [("routes", id_)]
        route = store.value("routes", id_)
        upstream: Any = None
        leads_elsewhere = False
        for directory, name in (("services", "service_id"), ("plugin_configs", "plugin_config_id")):
            other = getattr(route, name, None)
            if other is not None:
                places.append((directory, str(other)))
        for directory, key in list(places):
            record = store.value(directory, key)
            leads_elsewhere = leads_elsewhere or bool(_CHOOSERS & (getattr(record, "plugins", None) or {}).keys())
            if upstream is None and getattr(record, "upstream_id", None) is not None:
                places.append(("upstreams", str(record.upstream_id)))  # type: ignore[union-attr]
                upstream = store.value("upstreams", str(record.upstream_id))  # type: ignore[union-attr]
            elif upstream is None:
                upstream = getattr(record, "upstream", None)
        nodes = getattr(upstream, "nodes", None)
        hosts = None if nodes is None or leads_elsewhere else frozenset(_bare(node.host) for node in nodes)
        return _Nodes(tuple(places), tuple(map(self._revision, places)), hosts)


def _bare(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")
