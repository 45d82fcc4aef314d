"""Routes that can never win, and other things in routes that have no effect: found after changes, in the background.

A candidate is shadowed when another one comes before it in its bucket that takes whatever it would take: no address
and no ``vars`` to ask, its methods and hosts or more, the same pattern or a plain prefix. Candidates of other buckets
are of no concern: a longer literal wins on paths of its own, which leaves others to the shorter. A route can never win
when all of its candidates are shadowed, or stand for what no request can have.

Only the buckets that a change has touched are looked at again, candidate by candidate in steps.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from worker.routing.bucket import Bucket, Candidate
from worker.routing.hosts import names_port
from worker.routing.pattern import Pattern
from worker.routing.route import Route
from worker.routing.router import HostRouter, Place, Router

log = logging.getLogger("propylon.routing")

PORTION = 16  # candidates, comparisons or routes between two steps
HOSTS_TRIED = 8  # of a candidate, to find the one that fewest others have
_Entry = tuple[str, bytes]  # id of the route, text of the pattern
_Takers = dict[tuple[object, str], list[Candidate]]  # by shape and host pattern


class RouteWarning(NamedTuple):
    """Something that was certainly not meant."""

    route: str
    reason: str
    never_wins: bool


class Shadows:
    """What is known of shadowed routes; told of changes, and given time by its owner."""

    def __init__(self, router: Router, routes: Callable[[], Mapping[str, Route]]) -> None:
        """Look into a router that is empty still; ``routes`` returns those that are in it, by id."""
        self._router = router
        self._routes = routes
        self._touched: dict[Place, None] = {}
        self._to_judge: dict[str, None] = {}
        self._is_all_touched = False
        self._found: dict[Place, dict[_Entry, str]] = {}  # why each of these entries cannot win
        self._warnings: dict[str, list[RouteWarning]] = {}
        self.count = 0  # of warnings

    def is_current(self) -> bool:
        """Tell whether nothing has changed since the last look."""
        return not (self._touched or self._to_judge or self._is_all_touched)

    def touch(self, route: Route) -> None:
        """Note that a route has come or gone."""
        if not self._is_all_touched:
            self._to_judge[route.id] = None
            for place, _ in self._router.places(route):
                self._touched[place] = None

    def touch_all(self) -> None:
        """Note that very many have."""
        self._is_all_touched = True
        self._touched.clear()
        self._to_judge.clear()

    def warnings(self) -> Iterator[RouteWarning]:
        """Walk what there is to warn of at this instant, however it changes meanwhile; ``count`` is how much."""
        return chain.from_iterable(list(self._warnings.values()))

    def steps(self) -> Iterator[None]:
        """Look at everything that was touched, a portion in each step."""
        while not self.is_current():
            if self._is_all_touched:
                self._is_all_touched = False
                yield from self._touch_crowds()
            elif self._touched:
                place = next(iter(self._touched))
                del self._touched[place]
                yield from self._look_at(place)
            else:
                id_ = next(iter(self._to_judge))
                del self._to_judge[id_]
                self._judge(id_)
            yield

    def _touch_crowds(self) -> Iterator[None]:
        """Begin anew: whatever shares its bucket, or is strange by itself, is to be looked at."""
        self._touched.update(dict.fromkeys(self._found))
        self._to_judge.update(dict.fromkeys(self._warnings))
        for at, route in enumerate(list(self._routes().values()), 1):
            if pattern_notes(route):
                self._to_judge[route.id] = None
            for place, pattern in self._router.places(route):
                bucket = self._router.bucket(place)
                if bucket is not None and len(bucket) > 1:
                    self._touched[place] = None
                if nonsense(self._router, place, pattern):
                    self._to_judge[route.id] = None
            if at % PORTION == 0:
                yield

    def _look_at(self, place: Place) -> Iterator[None]:
        found: dict[_Entry, str] = {}
        bucket = self._router.bucket(place)
        if bucket is not None and len(bucket) > 1:
            yield from _shadowed(bucket, found)
        before = self._found.pop(place, {})
        if found:
            self._found[place] = found
        for (id_, _), _ in found.items() ^ before.items():
            self._to_judge[id_] = None

    def _judge(self, id_: str) -> None:
        """Settle what is to be said of a route, and say in the log what is new."""
        before = self._warnings.pop(id_, [])
        self.count -= len(before)
        route = self._routes().get(id_)
        if route is None:
            return
        warnings = [RouteWarning(id_, note, False) for note in pattern_notes(route)]
        reasons = [
            nonsense(self._router, place, pattern) or self._found.get(place, {}).get((id_, pattern.text), "")
            for place, pattern in self._router.places(route)
        ]
        if all(reasons):
            warnings.append(RouteWarning(id_, f"can never win: {'; '.join(dict.fromkeys(reasons))}", True))
        if warnings:
            self._warnings[id_] = warnings
            self.count += len(warnings)
        for warning in warnings:
            if warning not in before:
                log.warning("routes/%s: %s", id_, warning.reason)


def pattern_notes(route: Route) -> list[str]:
    """Return what in the patterns of a route has no effect, whatever else there is."""
    return [
        f"uri {pattern.text.decode()}: {pattern.ignored.decode()!r} has no meaning behind a wildcard inside a segment"
        for pattern in route.patterns
        if pattern.ignored
    ]


def nonsense(router: Router, place: Place, pattern: Pattern) -> str:
    """Say why no request can ever come to a place; empty when one can."""
    if isinstance(router, HostRouter) and names_port(place.host):
        return f"host {place.host} has a port, which radixtree_host_uri does not look at"
    text = pattern.text
    if text[:1] not in (b"/", b"*"):
        return f"uri {text.decode()} does not begin with a slash"
    if pattern.exact and (b"//" in text or {b".", b".."} & set(text.split(b"/"))):
        return f"uri {text.decode()} is no normalised path"
    return ""


def _shadowed(bucket: Bucket, found: dict[_Entry, str]) -> Iterator[None]:
    """Find the entries of a bucket that another one always comes before."""
    takers: _Takers = {}
    looked_at = 0
    for candidate in list(bucket):
        taker = None
        for one in chain((None,), _before(takers, candidate)):
            looked_at += 1
            if looked_at % PORTION == 0:
                yield
            if one is not None and _takes_all(one, candidate):
                taker = one
                break
        if taker is not None:
            found[candidate.route.id, candidate.pattern.text] = (
                f"routes/{taker.route.id} ({taker.pattern.text.decode()}) comes before "
                f"{candidate.pattern.text.decode()} and takes all of it"
            )
        elif candidate.route.addresses is None and candidate.route.condition is None:
            for host in candidate.route.hosts if candidate.hosts is not None else ("",):
                takers.setdefault((_shape(candidate.pattern), host), []).append(candidate)


def _before(takers: _Takers, candidate: Candidate) -> Iterator[Candidate]:
    """Walk those that might take all of a candidate: they cover its paths, and the host of it that fewest cover."""
    shapes = dict.fromkeys((None, _shape(candidate.pattern)))
    names = candidate.route.hosts[:HOSTS_TRIED] if candidate.hosts is not None else ("",)
    choices: Iterator[list[list[Candidate]]] = (
        [found for shape in shapes for host in _covering(name) if (found := takers.get((shape, host))) is not None]
        for name in names
    )
    fewest = min(choices, key=_size)
    return chain.from_iterable(fewest)


def _size(lists: list[list[Candidate]]) -> int:
    return sum(map(len, lists))


def _covering(name: str) -> Iterator[str]:
    """Walk the host patterns that cover one; the empty one covers all."""
    yield ""
    if name:
        yield name
        bare = name.removeprefix("*")
        yield from ("*" + bare[at:] for at in range(len(bare) + 1) if "*" + bare[at:] != name)


def _takes_all(taker: Candidate, candidate: Candidate) -> bool:
    if taker.route is candidate.route:
        return False
    if taker.methods and not (candidate.methods and candidate.methods <= taker.methods):
        return False
    return taker.hosts is None or all(
        any(_covers_host(wide, host) for wide in taker.route.hosts) for host in candidate.route.hosts
    )


def _covers_host(wide: str, host: str) -> bool:
    if wide == host:
        return True
    return names_port(wide) == names_port(host) and wide.startswith("*") and host.removeprefix("*").endswith(wide[1:])


def _shape(pattern: Pattern) -> object:
    """Return what two patterns with the same literal have in common when they match the same paths."""
    return None if pattern.rest is None else pattern.rest.shape()
