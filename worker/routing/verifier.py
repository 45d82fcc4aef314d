"""Is the index what it would be if it were built now? A comparison in steps, between which the worker serves.

The index is changed in place, route by route, for as long as a worker lives. A mistake there would not heal by itself,
so whoever is in doubt can have it checked now and then (``router.verify_interval``).
"""

from collections.abc import Iterator, Mapping

from worker.routing.bucket import Bucket
from worker.routing.route import Route
from worker.routing.router import Place, Router

PORTION = 16  # routes or buckets between two steps
COMPARED = 256  # candidates of one bucket between two steps
MOST_SHOWN = 20  # differences that are told in words


class Verification:
    """One comparison; ``is_outdated`` when the index has changed meanwhile, so that it says nothing."""

    def __init__(self, live: Router, routes: Mapping[str, Route]) -> None:
        """Compare a live index with one that is built of ``routes``."""
        self.differences: list[str] = []
        self.count = 0
        self.is_outdated = False
        self._live = live
        self._version = live.version
        self._routes = routes
        self._fresh = live.empty()

    def steps(self) -> Iterator[None]:
        """Do it, a portion in each step."""
        yield from self._guarded(self._build())
        if not self.is_outdated:
            yield from self._guarded(self._compare(self._live, self._fresh, "should not be there"))
        if not self.is_outdated:
            yield from self._guarded(self._compare(self._fresh, self._live, "is missing"))
        yield from self._fresh.dismantle()

    def _guarded(self, steps: Iterator[None]) -> Iterator[None]:
        """Go on for as long as the index stays what it was."""
        for _ in steps:
            yield
            if self._live.version != self._version:
                self.is_outdated = True
                return

    def _build(self) -> Iterator[None]:
        for at, route in enumerate(list(self._routes.values()), 1):
            self._fresh.add(route)
            if at % PORTION == 0:
                yield
        yield

    def _compare(self, one: Router, other: Router, fault: str) -> Iterator[None]:
        at = 0
        for host, table in one.all_tables():
            for exact, literal, bucket in table:
                counterpart = other.bucket(Place(host, exact, literal))
                if counterpart is None:
                    self._differs(host, literal, f"{_shown(bucket)} {fault}")
                elif one is self._live:
                    yield from self._compare_buckets(host, literal, bucket, counterpart)
                at += 1
                if at % PORTION == 0:
                    yield
        yield

    def _compare_buckets(self, host: str, literal: bytes, bucket: Bucket, counterpart: Bucket) -> Iterator[None]:
        equal = len(bucket) == len(counterpart) and _indexed(bucket) == _indexed(counterpart)
        for at, (candidate, other) in enumerate(zip(bucket, counterpart, strict=False), 1):
            equal = equal and candidate.route is other.route and candidate.pattern is other.pattern
            if at % COMPARED == 0:
                yield
        if not equal:
            self._differs(host, literal, f"is {_shown(bucket)}, should be {_shown(counterpart)}")

    def _differs(self, host: str, literal: bytes, what: str) -> None:
        self.count += 1
        if len(self.differences) < MOST_SHOWN:
            self.differences.append(f"{host or 'any host'} {literal.decode('utf-8', 'replace')}: {what}")


def _indexed(bucket: Bucket) -> int:
    return len(bucket) if bucket.crowd is None else len(bucket.crowd)


def _shown(bucket: Bucket) -> str:
    return "routes " + " ".join(candidate.route.id for candidate in bucket[:10])
