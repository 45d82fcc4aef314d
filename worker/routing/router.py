"""The default router, ``radixtree_host_uri``: hosts are the first key, paths the second (routing.md 4 and 5).

    host  ── exact ──────── dictionary ───────┐
          ── wildcard ───── tree, reversed ───┼──► PathRouter ── exact ──── dictionary ─┐
          ── none bound ──────────────────────┘               ── prefix ─── tree ───────┴──► bucket, sorted

It is incremental: to add or remove one route touches the buckets of its own patterns and nothing else. Ties
are broken by id, so that all workers decide alike.
"""

from bisect import insort
from collections.abc import Iterator

from worker.messages import Request
from worker.routing.radix import RadixTree
from worker.routing.route import Pattern, Route

Candidate = tuple[Pattern, Route]
DISMANTLED = 64  # entries freed between two steps


def _order(candidate: Candidate) -> tuple[int, int, str]:
    pattern, route = candidate
    return -route.priority, -pattern.length, route.id


class PathRouter:
    """The routes of one host pattern: exact paths before prefixes, longer prefixes before shorter."""

    __slots__ = ("_exact", "_prefixes", "size")

    def __init__(self) -> None:
        self._exact: dict[bytes, list[Candidate]] = {}
        self._prefixes: RadixTree[list[Candidate]] = RadixTree()
        self.size = 0

    def add(self, route: Route) -> None:
        """Enter a route under each of its patterns."""
        for pattern in route.patterns:
            candidate = pattern, route
            bucket = self._exact.get(pattern.literal) if pattern.exact else self._prefixes.get(pattern.literal)
            if bucket is not None:
                insort(bucket, candidate, key=_order)
            elif pattern.exact:
                self._exact[pattern.literal] = [candidate]
            else:
                self._prefixes.put(pattern.literal, [candidate])
            self.size += 1

    def remove(self, route: Route) -> None:
        """Take a route out again; it must be the very object that was entered."""
        for pattern in route.patterns:
            bucket = (self._exact if pattern.exact else self._prefixes).get(pattern.literal) or []
            at = next((i for i, found in enumerate(bucket) if found[0] is pattern and found[1] is route), None)
            if at is None:
                continue
            del bucket[at]
            self.size -= 1
            if not bucket:
                self._forget(pattern)

    def _forget(self, pattern: Pattern) -> None:
        if pattern.exact:
            del self._exact[pattern.literal]
        else:
            self._prefixes.remove(pattern.literal)

    def dismantle(self) -> Iterator[None]:
        """Free what is in it, in steps."""
        while self._exact:
            self._exact.popitem()
            if len(self._exact) % DISMANTLED == 0:
                yield
        yield from self._prefixes.dismantle()

    def match(self, request: Request, remote_address: str) -> Route | None:
        """Return the winning route, or None."""
        path = request.path
        exact = self._exact.get(path)
        if exact is not None:
            for _, route in exact:
                if route.accepts(request, remote_address):
                    return route
        found = self._prefixes.prefixes(path)
        while found:
            for pattern, route in found.pop():
                if route.accepts(request, remote_address) and (
                    pattern.regex is None or pattern.regex.fullmatch(path) is not None
                ):
                    return route
        return None


class Router:
    """Finds the route of a request; changed in place, route by route."""

    __slots__ = ("_hosts", "_unbound", "_wildcards", "_wildcards_count", "version")

    def __init__(self) -> None:
        self._hosts: dict[bytes, PathRouter] = {}
        self._wildcards: RadixTree[PathRouter] = RadixTree()  # of reversed suffixes
        self._wildcards_count = 0
        self._unbound = PathRouter()
        self.version = 0  # counts changes: an answer holds as long as it stays

    def add(self, route: Route) -> None:
        """Enter a route; an older one with the same id must have been removed."""
        self.version += 1
        if not route.hosts:
            self._unbound.add(route)
        for host in dict.fromkeys(route.hosts):
            if host.startswith("*"):
                self._wildcards.setdefault(_reversed_suffix(host), self._new_wildcard).add(route)
            else:
                self._hosts.setdefault(host.encode(), PathRouter()).add(route)

    def _new_wildcard(self) -> PathRouter:
        self._wildcards_count += 1
        return PathRouter()

    def remove(self, route: Route) -> None:
        """Take a route out; it must be the very object that was entered."""
        self.version += 1
        if not route.hosts:
            self._unbound.remove(route)
        for host in dict.fromkeys(route.hosts):
            if host.startswith("*"):
                self._remove_wildcard(_reversed_suffix(host), route)
            elif paths := self._hosts.get(host.encode()):
                paths.remove(route)
                if not paths.size:
                    del self._hosts[host.encode()]

    def _remove_wildcard(self, suffix: bytes, route: Route) -> None:
        paths = self._wildcards.get(suffix)
        if paths is None:
            return
        paths.remove(route)
        if not paths.size:
            self._wildcards.remove(suffix)
            self._wildcards_count -= 1

    def exchange_tables(self, other: "Router") -> None:
        """Take the routes of another router, and give it one's own."""
        self.version += 1
        self._hosts, other._hosts = other._hosts, self._hosts
        self._wildcards, other._wildcards = other._wildcards, self._wildcards
        self._wildcards_count, other._wildcards_count = other._wildcards_count, self._wildcards_count
        self._unbound, other._unbound = other._unbound, self._unbound

    def dismantle(self) -> Iterator[None]:
        """Free a router that nobody asks any more, in steps."""
        while self._hosts:
            _, paths = self._hosts.popitem()
            yield from paths.dismantle()
        for _, paths in self._wildcards:
            yield from paths.dismantle()
        yield from self._wildcards.dismantle()
        yield from self._unbound.dismantle()

    def match(self, request: Request, remote_address: str) -> Route | None:
        """Return the winning route, or None: exact host, then wildcards from the longest, then the unbound."""
        if self._hosts:
            paths = self._hosts.get(request.host_name)
            if paths is not None:
                route = paths.match(request, remote_address)
                if route is not None:
                    return route
        if self._wildcards_count:
            for paths in self._matching_wildcards(request.host_name):
                route = paths.match(request, remote_address)
                if route is not None:
                    return route
        return self._unbound.match(request, remote_address)

    def _matching_wildcards(self, host: bytes) -> Iterator[PathRouter]:
        return reversed(self._wildcards.prefixes(host[::-1]))


def _reversed_suffix(host: str) -> bytes:
    return host[:0:-1].encode()
