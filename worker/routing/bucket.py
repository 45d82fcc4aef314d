"""Candidates, and the buckets they stand in: routes whose patterns have the same literal (routing.md section 4).

A bucket is a list in the order in which candidates are tried. Most have one or two. A bucket with very many, as ten
thousand patterns ``/*/x`` behind one prefix, or ``/*`` for ten thousand hosts where the path is the first key, gets a
``Crowd`` beside the list, which names the few candidates that can match at all.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from heapq import merge
from typing import TYPE_CHECKING

from worker.routing.hosts import HostCondition
from worker.routing.pattern import SLASH, Pattern
from worker.routing.radix import RadixTree
from worker.routing.route import Route

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.messages import Request

CROWDED = 16  # candidates


class Candidate:
    """A route under one of its patterns."""

    __slots__ = ("hosts", "is_plain", "methods", "pattern", "route")

    def __init__(self, pattern: Pattern, route: Route, hosts: HostCondition | None = None) -> None:
        """Enter a route; ``hosts`` when the index has not looked at the host."""
        self.pattern = pattern
        self.route = route
        self.methods = route.methods
        self.hosts = hosts
        # Nothing is left to be asked once the method fits.
        self.is_plain = hosts is None and pattern.rest is None and route.addresses is None and route.condition is None

    def accepts(self, exchange: "Exchange", request: "Request") -> bool:
        """Check the conditions besides path and method; those first that depend on the head alone.

        Raises:
            BodyNeeded: ``vars`` look at a body that is not at hand.
        """
        if self.hosts is not None and not self.hosts.holds(request):
            return False
        rest = self.pattern.rest
        if rest is not None and not rest.fits(request.path_matched):
            return False
        route = self.route
        if not route.repeatable:
            request.is_repeatable = False
        if route.addresses is not None and not route.addresses.holds(exchange.downstream.remote_address):
            return False
        return route.condition is None or route.condition(exchange)

    def __repr__(self) -> str:
        """Show route and pattern."""
        return f"<Candidate {self.route.id} {self.pattern.text!r}>"


def order(candidate: Candidate) -> tuple[int, int, str]:
    """Return what candidates of one bucket are sorted by: priority, then longer pattern text, then id."""
    return -candidate.route.priority, -len(candidate.pattern.text), candidate.route.id


class Bucket(list[Candidate]):
    """The candidates of one literal, in order."""

    __slots__ = ("crowd",)

    def __init__(self, candidates: Iterable[Candidate] = ()) -> None:
        super().__init__(candidates)
        self.crowd: Crowd | None = None

    def add(self, candidate: Candidate) -> None:
        """Enter a candidate in its place."""
        insort(self, candidate, key=order)
        if self.crowd is not None:
            self.crowd.add(candidate)
        elif len(self) > CROWDED:
            self.crowd = Crowd(self)

    def take_out(self, pattern: Pattern, route: Route) -> bool:
        """Remove the candidate of exactly these objects; False when it is not there."""
        key = -route.priority, -len(pattern.text), route.id
        at = bisect_left(self, key, key=order)
        while at < len(self) and order(self[at]) == key:
            candidate = self[at]
            if candidate.pattern is pattern and candidate.route is route:
                del self[at]
                if self.crowd is not None:
                    self.crowd.remove(candidate)
                    if len(self) <= CROWDED // 2:
                        self.crowd = None
                return True
            at += 1
        return False


class Crowd:
    """The candidates of a crowded bucket by something that a request must have for them to match.

    That is one of the literal segments of a pattern, or the hosts; whichever is shared by fewer others when the
    candidate comes in. Candidates that have neither are always asked.
    """

    __slots__ = ("_always", "_by_name", "_by_segment", "_by_suffix", "_places")

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self._always: list[Candidate] = []
        self._by_segment: dict[bytes, list[Candidate]] = {}
        self._by_name: dict[bytes, list[Candidate]] = {}
        self._by_suffix: RadixTree[list[Candidate]] = RadixTree()  # reversed
        self._places: dict[Candidate, bytes | None] = {}  # the segment; None: by its hosts, or always asked
        for candidate in candidates:
            self.add(candidate)

    def add(self, candidate: Candidate) -> None:
        """Enter a candidate."""
        segment = self._best_segment(candidate)
        self._places[candidate] = segment
        if segment is not None:
            insort(self._by_segment.setdefault(segment, []), candidate, key=order)
        else:
            for group in self._groups_by_host(candidate):
                insort(group, candidate, key=order)

    def _best_segment(self, candidate: Candidate) -> bytes | None:
        """Return the rarest literal segment; None when the hosts are rarer, or there is no segment."""
        pattern = candidate.pattern
        segments = pattern.rest.literals() if pattern.rest is not None else []
        # Those in the prefix are had by everything in this bucket.
        shared = set(pattern.literal.split(SLASH)[:-1])
        sizes = {segment: len(self._by_segment.get(segment, ())) for segment in segments if segment not in shared}
        if not sizes:
            return None
        best = min(sizes, key=sizes.__getitem__)
        condition = candidate.hosts
        if condition is None or condition.looks_at_port:
            return best
        sharing = [len(self._by_name.get(name, ())) for name in condition.names]
        sharing += [len(self._by_suffix.get(suffix[::-1]) or ()) for suffix in condition.suffixes]
        return best if sizes[best] <= max(sharing) else None

    def _groups_by_host(self, candidate: Candidate) -> list[list[Candidate]]:
        condition = candidate.hosts
        if condition is None or condition.looks_at_port:
            return [self._always]
        groups = [self._by_name.setdefault(name, []) for name in condition.names]
        groups += [self._by_suffix.setdefault(suffix[::-1], _new_group) for suffix in condition.suffixes]
        return groups

    def remove(self, candidate: Candidate) -> None:
        """Take a candidate out."""
        segment = self._places.pop(candidate)
        if segment is not None:
            _take_out(self._by_segment[segment], candidate)
            if not self._by_segment[segment]:
                del self._by_segment[segment]
            return
        for group in self._groups_by_host(candidate):
            _take_out(group, candidate)
        condition = candidate.hosts
        if condition is None or condition.looks_at_port:
            return
        for name in condition.names:
            if not self._by_name[name]:
                del self._by_name[name]
        for suffix in condition.suffixes:
            if not self._by_suffix.get(suffix[::-1]):
                self._by_suffix.remove(suffix[::-1])

    def __len__(self) -> int:
        """Count the candidates."""
        return len(self._places)

    def likely(self, request: "Request") -> Iterable[Candidate]:
        """Return, in order, every candidate that can match and few others; one may come twice."""
        groups = [self._always] if self._always else []
        if self._by_name and (found := self._by_name.get(request.host_name)):
            groups.append(found)
        groups += self._by_suffix.prefixes(request.host_name[::-1])
        if self._by_segment:
            groups += self._groups_by_segment(request.path_matched)
        if len(groups) <= 1:
            return groups[0] if groups else ()
        return merge(*groups, key=order)

    def _groups_by_segment(self, path: bytes) -> Iterator[list[Candidate]]:
        by_segment = self._by_segment
        segments = set(path.split(SLASH))
        for segment in segments if len(segments) < len(by_segment) else segments & by_segment.keys():
            found = by_segment.get(segment)
            if found is not None:
                yield found


def _new_group() -> list[Candidate]:
    return []


def _take_out(group: list[Candidate], candidate: Candidate) -> None:
    at = bisect_left(group, order(candidate), key=order)
    while group[at] is not candidate:
        at += 1
    del group[at]
