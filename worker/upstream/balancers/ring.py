"""Ring: the points of consistent hashing, where nginx's ``hash … consistent`` has them (upstreams.md section 3).

A node of weight w has 160 x w / gcd points. The first is the CRC-32 of its name and four zero bytes, each further one
that of its name and the point before, little-endian. A name is ``host:port`` with zero bytes for the colons. So a
ring depends on names and weights alone: it is the same in all workers, after a restart, and in whatever order the
nodes are listed.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from math import gcd
from zlib import crc32

POINTS_PER_WEIGHT = 160
# Weights that have hardly a common divisor would need more; they are made smaller in proportion.
MOST_POINTS = 1 << 20
PORTION = 2_048  # points in one step of building: about 0.5 ms
_OWNER_BITS = 20

Node = tuple[str, int]  # its address as text, its weight


class Ring:
    """Who owns which part of the numbers below 2 ** 32; it must have been built before it is asked.

    A small ring is built by ``complete``, when it is first asked; a large one in steps, by ``begin``. Many upstreams
    with the same nodes can share one.
    """

    __slots__ = (
        "__weakref__",
        "_chains",
        "_old_chains",
        "_then",
        "is_begun",
        "is_complete",
        "nodes",
        "owners",
        "points",
    )

    def __init__(self, nodes: Sequence[Node]) -> None:
        """Prepare a ring for nodes, which are told by their place in the sequence.

        Without any weight above 0 all count the same; else those of weight 0 own nothing.
        """
        self.nodes = tuple(nodes)
        self.points: array[int] = array("I")
        self.owners: array[int] = array("I")
        self.is_begun = False
        self.is_complete = False
        self._chains: dict[str, array[int]] = {}
        self._old_chains: dict[str, array[int]] = {}
        self._then: list[Callable[[], None]] = []

    def reuse(self, old: "Ring") -> None:
        """Use the points of another ring again for the nodes that both have."""
        self._old_chains = old._chains

    def count(self) -> int:
        """Return how many points it is to have."""
        return sum(self._counts())

    def _counts(self) -> list[int]:
        weights = [weight for _, weight in self.nodes]
        if not any(weights):
            weights = [1] * len(weights)
        divisor = gcd(*weights)
        counts = [weight // divisor * POINTS_PER_WEIGHT for weight in weights]
        total = sum(counts)
        if total > MOST_POINTS:
            counts = [max(1, count * MOST_POINTS // total) if count else 0 for count in counts]
        return counts

    def begin(self) -> Iterator[None]:
        """Return what builds it, in steps of about half a millisecond."""
        self.is_begun = True
        return self._steps()

    def complete(self) -> None:
        """Build it at once."""
        for _ in self.begin():
            pass

    def when_complete(self, then: "Callable[[], None]") -> None:
        """Call back when it has been built."""
        self._then.append(then)

    def _steps(self) -> Iterator[None]:
        counts = self._counts()
        bits = max(1, sum(counts) // 32).bit_length()
        buckets: list[list[int]] = [[] for _ in range(1 << bits)]
        names = sorted(range(len(self.nodes)), key=lambda at: self.nodes[at])
        for rank, at in enumerate(names):
            address = self.nodes[at][0]
            chain = self._chains[address] = self._old_chains.get(address, array("I"))[: counts[at]]
            yield from extend_chain(chain, address, counts[at])
            for start in range(0, counts[at], PORTION):
                for point in chain[start : start + PORTION]:
                    buckets[point >> (32 - bits)].append(point << _OWNER_BITS | rank)
                yield
        done = 0
        buckets.reverse()
        while buckets:
            bucket = buckets.pop()  # and freed here: all at once would take milliseconds
            bucket.sort()
            self.points.extend([entry >> _OWNER_BITS for entry in bucket])
            self.owners.extend([names[entry & (1 << _OWNER_BITS) - 1] for entry in bucket])
            done += len(bucket)
            if done >= PORTION:
                done = 0
                yield
        self._old_chains = {}
        self.is_complete = True
        callbacks, self._then = self._then, []
        for then in callbacks:
            then()

    def find(self, key: bytes) -> int:
        """Return the index of the first point at or behind a key."""
        at = bisect_left(self.points, crc32(key))
        return at if at < len(self.points) else 0


def extend_chain(chain: "array[int]", address: str, count: int) -> Iterator[None]:
    """Add a node's next points to those it has, up to a number of them, in steps."""
    base = crc32(address.replace(":", "\0").encode())
    point = chain[-1] if chain else 0
    while len(chain) < count:
        for _ in range(min(PORTION, count - len(chain))):
            point = crc32(point.to_bytes(4, "little"), base)
            chain.append(point)
        yield
