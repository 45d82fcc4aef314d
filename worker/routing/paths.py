"""PathRouter: from a path to its candidates, exact before prefixes, longer prefixes before shorter (routing.md 4)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from worker.routing.bucket import Bucket, Candidate
from worker.routing.pattern import Pattern
from worker.routing.route import Route
from worker.routing.segments import SegmentTree

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.messages import Request

DISMANTLED = 64  # entries freed between two steps


class PathRouter:
    """Routes by the patterns of their paths."""

    __slots__ = ("_exact", "_prefixes", "size")

    def __init__(self) -> None:
        self._exact: dict[bytes, Bucket] = {}
        self._prefixes: SegmentTree[Bucket] = SegmentTree()
        self.size = 0

    def add(self, candidate: Candidate) -> None:
        """Enter a candidate."""
        pattern = candidate.pattern
        if not pattern.exact:
            self._prefixes.setdefault(pattern.literal, Bucket).add(candidate)
        elif (bucket := self._exact.get(pattern.text)) is not None:
            bucket.add(candidate)
        else:
            self._exact[pattern.text] = Bucket((candidate,))
        self.size += 1

    def remove(self, pattern: Pattern, route: Route) -> None:
        """Take a route out again; it and its pattern must be the very objects that were entered."""
        bucket = self.bucket(pattern.exact, pattern.literal)
        if bucket is None or not bucket.take_out(pattern, route):
            return
        self.size -= 1
        if bucket:
            return
        if pattern.exact:
            del self._exact[pattern.text]
        else:
            self._prefixes.remove(pattern.literal)

    def bucket(self, exact: bool, literal: bytes) -> Bucket | None:
        """Return the bucket of a literal."""
        return self._exact.get(literal) if exact else self._prefixes.get(literal)

    def buckets(self, path: bytes) -> list[Bucket]:
        """Return the buckets that a path leads to, in the order in which they are tried."""
        found = self._prefixes.prefixes(path)
        exact = self._exact.get(path)
        if exact is not None:
            found.append(exact)
        found.reverse()
        return found

    def __iter__(self) -> Iterator[tuple[bool, bytes, Bucket]]:
        """Walk all buckets: whether it is of exact paths, its literal, and its candidates."""
        for path, bucket in self._exact.items():
            yield True, path, bucket
        for prefix, bucket in self._prefixes:
            yield False, prefix, bucket

    def dismantle(self) -> Iterator[None]:
        """Free what is in it, in steps."""
        while self._exact:
            self._exact.popitem()
            if len(self._exact) % DISMANTLED == 0:
                yield
        yield from self._prefixes.dismantle()

    def match(self, exchange: "Exchange", request: "Request") -> Candidate | None:
        """Return the winning candidate, or None."""
        path = request.path_matched
        method = request.method
        bucket = self._exact.get(path)
        if bucket is not None:
            for candidate in bucket if bucket.crowd is None else bucket.crowd.likely(request):
                methods = candidate.methods
                if methods and method not in methods:
                    continue
                if candidate.is_plain or candidate.accepts(exchange, request):
                    return candidate
        found = self._prefixes.prefixes(path)
        while found:
            bucket = found.pop()
            for candidate in bucket if bucket.crowd is None else bucket.crowd.likely(request):
                methods = candidate.methods
                if methods and method not in methods:
                    continue
                if candidate.is_plain or candidate.accepts(exchange, request):
                    return candidate
        return None
