"""RoundRobin: smooth and weighted; heavier peers more often, but never in a burst.

Every pick raises each peer's current weight by its own weight, takes the highest, and lowers that one by the sum of
all. With weights 3 and 1 the cycle is A A B A. After as many picks as the sum of the weights (divided by their
greatest common divisor) the current weights are what they were. So the picks are written down as they are made, and
a cycle that has closed is repeated: a pick then costs the same for two peers and for a hundred.
"""

from collections.abc import Collection, Sequence
from math import gcd
from typing import TYPE_CHECKING

from worker.upstream.balancers.interface import usable, weighted

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.balancers.interface import Leaf
    from worker.upstream.peer import Peer

LONGEST_CYCLE = 1_024  # picks; longer ones are not written down
NO_PICKS: "list[Peer]" = []
SKIPPED_WORK = 2_000  # comparisons that the first pick may cost more, about 0.1 ms


class RoundRobin:
    """Takes the peers in turn."""

    __slots__ = (
        "_at",
        "_current",
        "_cycle",
        "_is_closed",
        "_length",
        "_origin",
        "_peers",
        "_skipped",
        "_total",
        "_weights",
        "peers",
        "unhealthy",
    )

    def __init__(self, peers: "Sequence[Peer]", start: int = 0) -> None:
        """Balance over peers, the first ``start`` picks left out so that workers do not move in step."""
        self.peers = tuple(peers)
        self.unhealthy: Collection[Peer] = ()
        self._skipped = start
        # The rest is made at the first choice: most of very many upstreams are seldom asked.
        self._total = 0
        self._at = 0
        self._cycle: list[Peer] = NO_PICKS

    def _begin(self, current: "dict[Peer, int]") -> None:
        """Begin a cycle with the peers that can be used; ``current`` are their current weights, 0 if not given."""
        self._peers, self._weights = weighted(usable(self.peers, self.unhealthy))
        self._total = sum(self._weights)
        self._length = self._total // gcd(*self._weights)
        self._current = [current.get(peer, 0) for peer in self._peers]
        self._restart()

    def _restart(self) -> None:
        self._origin = self._current[:]
        self._cycle = []  # the picks since the current weights were ``_origin``
        self._at = 0  # how many of them have been repeated
        self._is_closed = False

    def next(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> "Peer | None":
        """Return the peer whose turn it is, those passed over that have been tried."""
        at = self._at
        cycle = self._cycle
        if at < len(cycle):
            self._at = at + 1
            peer = cycle[at]
        else:
            peer = self._advance()
        if tried and peer in tried:
            return self._next_untried(tried)
        return peer

    def _advance(self) -> "Peer":
        if not self._total:
            self._begin({})
            self._skip()
        if len(self._cycle) == self._length and self._current == self._origin:
            self._is_closed = True
        if self._is_closed:
            self._at = 1
            return self._cycle[0]
        if len(self._cycle) >= min(self._length, LONGEST_CYCLE):
            self._restart()
        peer = self._pick()
        self._cycle.append(peer)
        self._at = len(self._cycle)
        return peer

    def _skip(self) -> None:
        count = self._skipped % min(self._length, max(1, SKIPPED_WORK // len(self._peers)))
        for _ in range(count):
            self._pick()
        self._restart()

    def _pick(self, tried: "Collection[Peer]" = ()) -> "Peer":
        best = -1
        total = 0
        current = self._current
        for at, weight in enumerate(self._weights):
            if tried and self._peers[at] in tried:
                continue
            total += weight
            current[at] += weight
            if best < 0 or current[at] > current[best]:
                best = at
        current[best] -= total
        return self._peers[best]

    def _next_untried(self, tried: "Collection[Peer]") -> "Peer | None":
        if all(peer in tried for peer in self._peers):
            return None
        if not self._is_closed:
            peer = self._pick(tried)
            self._restart()
            return peer
        cycle = self._cycle
        ahead = next(n for n in range(len(cycle)) if cycle[(self._at + n) % len(cycle)] not in tried)
        at = (self._at + ahead) % len(cycle)
        self._at = at + 1
        return cycle[at]

    def peek(self, exchange: "Exchange") -> "Peer | None":
        """Return the peer whose turn it is."""
        if not self._total:
            self._begin({})
            self._skip()
        if self._at < len(self._cycle):
            return self._cycle[self._at]
        if self._is_closed:
            return self._cycle[0]
        after = [current + weight for current, weight in zip(self._current, self._weights, strict=True)]
        return self._peers[after.index(max(after))]

    def set_unhealthy(self, peers: "Collection[Peer]") -> None:
        """Leave peers out; the others keep their current weights."""
        self.unhealthy = tuple(peer for peer in self.peers if peer in peers)
        if self._total:
            self._begin(self.current_weights())

    def current_weights(self) -> "dict[Peer, int]":
        """Return the current weights of the peers in use; none before the first choice."""
        if not self._total:
            return {}
        if not self._is_closed:
            return dict(zip(self._peers, self._current, strict=True))
        picks = self._cycle[: self._at]
        return {
            peer: origin + self._at * weight - self._total * picks.count(peer)
            for peer, origin, weight in zip(self._peers, self._origin, self._weights, strict=True)
        }

    def leaves(self) -> "Sequence[Leaf]":
        """Return itself."""
        return (self,)

    def inherit(self, old: "Leaf") -> None:
        """Go on with the current weights of the nodes that stay."""
        if not isinstance(old, RoundRobin):
            return
        known = {peer.address: weight for peer, weight in old.current_weights().items()}
        found = {peer: known[peer.address] for peer in self.peers if peer.address in known}
        if found:
            self._begin({**self.current_weights(), **found})
