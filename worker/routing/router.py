"""The routers: from an exchange to its route, in the three modes of ``router.http`` (routing.md sections 1, 4 and 5).

``radixtree_host_uri``: hosts are the first key, paths the second.

    host  ── exact ──────── dictionary ───────┐
          ── wildcard ───── tree, reversed ───┼──► PathRouter ── exact ──── dictionary ─┐
          ── none bound ──────────────────────┘               ── prefix ─── tree ───────┴──► bucket, sorted

``radixtree_uri``: one PathRouter, and hosts are a condition on its candidates. ``radixtree_uri_with_parameter``: so,
too, and ``:name`` in a pattern is a parameter.

All are incremental: to add or remove one route touches the buckets of its own patterns and nothing else. Ties are
broken by id, so that all workers decide alike. What was found is remembered with the request's head, as long as nothing
but the head was looked at (docs/decisions/0002-heads-that-repeat.md).
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from worker.routing.bucket import Bucket, Candidate
from worker.routing.hosts import HostCondition
from worker.routing.paths import PathRouter
from worker.routing.pattern import Pattern
from worker.routing.radix import RadixTree
from worker.routing.route import Route

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.messages import Request

Mode = Literal["radixtree_host_uri", "radixtree_uri", "radixtree_uri_with_parameter"]


class Place(NamedTuple):
    """Where in the index a candidate stands."""

    host: str  # a host pattern; empty: of the routes that are bound to none, or of all where hosts are no key
    exact: bool
    literal: bytes


class Router:
    """Finds the route of a request; changed in place, route by route."""

    __slots__ = ("_unbound", "has_parameters", "version")

    def __init__(self, has_parameters: bool = False) -> None:
        self._unbound = PathRouter()
        self.has_parameters = has_parameters
        self.version = 0  # counts changes: an answer holds as long as it stays

    def pattern(self, text: str) -> Pattern:
        """Compile a ``uri`` as this mode reads it."""
        return Pattern(text, self.has_parameters)

    def empty(self) -> "Router":
        """Return another router of this mode, without routes."""
        return type(self)(self.has_parameters)

    def add(self, route: Route) -> None:
        """Enter a route; an older one with the same id must have been removed."""
        self.version += 1
        hosts = HostCondition(route.hosts) if route.hosts else None
        for pattern in route.patterns:
            self._unbound.add(Candidate(pattern, route, hosts))

    def remove(self, route: Route) -> None:
        """Take a route out; it must be the very object that was entered."""
        self.version += 1
        for pattern in route.patterns:
            self._unbound.remove(pattern, route)

    def exchange_tables(self, other: "Router") -> None:
        """Take the routes of another router of this mode, and give it one's own."""
        self.version += 1
        self._unbound, other._unbound = other._unbound, self._unbound

    def dismantle(self) -> Iterator[None]:
        """Free a router that nobody asks any more, in steps."""
        yield from self._unbound.dismantle()

    def match(self, exchange: "Exchange") -> Route | None:
        """Return the winning route, or None, and note in the request what was found.

        Raises:
            BodyNeeded: a condition looks at a body that is not at hand; nothing is noted then.
        """
        request: Request = exchange.request  # type: ignore[assignment]  # only requests that were read come here
        return self._noted(request, self._unbound.match(exchange, request))

    def _noted(self, request: "Request", candidate: Candidate | None) -> Route | None:
        """Note in a request what was found for it."""
        if request.is_repeatable:
            request.matched_at = self.version
        else:
            request.is_repeatable = True
        if candidate is None:
            request.route = None
            return None
        request.pattern = candidate.pattern
        request.route = route = candidate.route
        return route

    # for those who look at the index itself

    def tables(self, host: bytes) -> Iterator[tuple[str, PathRouter]]:
        """Walk the tables that a request for a host is looked up in, in order, with the host pattern of each."""
        yield "", self._unbound

    def all_tables(self) -> Iterator[tuple[str, PathRouter]]:
        """Walk all tables."""
        yield "", self._unbound

    def table(self, host: str) -> PathRouter | None:
        """Return the table of a host pattern."""
        return None if host else self._unbound

    def places(self, route: Route) -> list[tuple[Place, Pattern]]:
        """Return where the candidates of a route stand."""
        return [(Place("", pattern.exact, pattern.literal), pattern) for pattern in route.patterns]

    def bucket(self, place: Place) -> Bucket | None:
        """Return the bucket at a place."""
        table = self.table(place.host)
        return table.bucket(place.exact, place.literal) if table is not None else None


class HostRouter(Router):
    """The default mode: any matching route that is bound to a host beats all that are not."""

    __slots__ = ("_hosts", "_wildcards", "_wildcards_count")

    def __init__(self, has_parameters: bool = False) -> None:
        super().__init__(has_parameters)
        self._hosts: dict[bytes, PathRouter] = {}
        self._wildcards: RadixTree[PathRouter] = RadixTree()  # of reversed suffixes
        self._wildcards_count = 0

    def add(self, route: Route) -> None:
        """Enter a route; an older one with the same id must have been removed."""
        self.version += 1
        candidates = [Candidate(pattern, route) for pattern in route.patterns]
        for host in dict.fromkeys(route.hosts) or ("",):
            table = self._table_for(host)
            for candidate in candidates:
                table.add(candidate)

    def _table_for(self, host: str) -> PathRouter:
        if not host:
            return self._unbound
        if host.startswith("*"):
            return self._wildcards.setdefault(_reversed_suffix(host), self._new_wildcard)
        return self._hosts.setdefault(host.encode(), PathRouter())

    def _new_wildcard(self) -> PathRouter:
        self._wildcards_count += 1
        return PathRouter()

    def remove(self, route: Route) -> None:
        """Take a route out; it must be the very object that was entered."""
        self.version += 1
        for host in dict.fromkeys(route.hosts) or ("",):
            table = self.table(host)
            if table is None:
                continue
            for pattern in route.patterns:
                table.remove(pattern, route)
            if host and not table.size:
                self._forget(host)

    def _forget(self, host: str) -> None:
        if host.startswith("*"):
            self._wildcards.remove(_reversed_suffix(host))
            self._wildcards_count -= 1
        else:
            del self._hosts[host.encode()]

    def exchange_tables(self, other: Router) -> None:
        """Take the routes of another router of this mode, and give it one's own."""
        super().exchange_tables(other)
        assert isinstance(other, HostRouter)  # noqa: S101 - the mode is chosen once
        self._hosts, other._hosts = other._hosts, self._hosts
        self._wildcards, other._wildcards = other._wildcards, self._wildcards
        self._wildcards_count, other._wildcards_count = other._wildcards_count, self._wildcards_count

    def dismantle(self) -> Iterator[None]:
        """Free a router that nobody asks any more, in steps."""
        while self._hosts:
            _, table = self._hosts.popitem()
            yield from table.dismantle()
        for _, table in self._wildcards:
            yield from table.dismantle()
        yield from self._wildcards.dismantle()
        yield from super().dismantle()

    def match(self, exchange: "Exchange") -> Route | None:
        """Return the winning route, or None: exact host, then wildcards from the longest, then the unbound.

        Raises:
            BodyNeeded: as in all modes.
        """
        request: Request = exchange.request  # type: ignore[assignment]
        candidate: Candidate | None = None
        if self._hosts:
            table = self._hosts.get(request.host_name)
            if table is not None:
                candidate = table.match(exchange, request)
        if self._wildcards_count and candidate is None:
            for table in reversed(self._wildcards.prefixes(request.host_name[::-1])):
                candidate = table.match(exchange, request)
                if candidate is not None:
                    break
        if candidate is None:
            candidate = self._unbound.match(exchange, request)
        # As in _noted; a call less, for this is the mode that is used.
        if candidate is None or not request.is_repeatable:
            return self._noted(request, candidate)
        request.matched_at = self.version
        request.pattern = candidate.pattern
        request.route = route = candidate.route
        return route

    def tables(self, host: bytes) -> Iterator[tuple[str, PathRouter]]:
        """Walk the tables that a request for a host is looked up in, in order, with the host pattern of each."""
        exact = self._hosts.get(host)
        if exact is not None:
            yield host.decode("utf-8", "replace"), exact
        for size in range(len(host), -1, -1):
            table = self._wildcards.get(host[len(host) - size :][::-1])
            if table is not None:
                yield "*" + host[len(host) - size :].decode("utf-8", "replace"), table
        yield "", self._unbound

    def all_tables(self) -> Iterator[tuple[str, PathRouter]]:
        """Walk all tables; they may change meanwhile."""
        for host in list(self._hosts):
            table = self._hosts.get(host)
            if table is not None:
                yield host.decode(), table
        for suffix, table in self._wildcards:
            yield "*" + suffix[::-1].decode(), table
        yield "", self._unbound

    def table(self, host: str) -> PathRouter | None:
        """Return the table of a host pattern."""
        if not host:
            return self._unbound
        return self._wildcards.get(_reversed_suffix(host)) if host.startswith("*") else self._hosts.get(host.encode())

    def places(self, route: Route) -> list[tuple[Place, Pattern]]:
        """Return where the candidates of a route stand."""
        return [
            (Place(host, pattern.exact, pattern.literal), pattern)
            for host in dict.fromkeys(route.hosts) or ("",)
            for pattern in route.patterns
        ]


def build_router(mode: Mode) -> Router:
    """Make the router of a mode."""
    if mode == "radixtree_host_uri":
        return HostRouter()
    return Router(has_parameters=mode == "radixtree_uri_with_parameter")


def _reversed_suffix(host: str) -> bytes:
    return host[:0:-1].encode()
