"""Which peer takes the next request: the balancers by name (upstreams.md section 3).

A balancer is built for one list of peers and thrown away with it. It decides and does nothing else; health
and retries come in as the set of peers that must not be taken.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from worker.upstream.peer import Peer


class Balancer(Protocol):
    """Chooses among the peers it was built for."""

    def next(self, tried: Collection[Peer] = ()) -> Peer | None:
        """Return the peer for the next request, or None when all have been tried."""


class Single:
    """One peer: always that one, whatever its weight (upstreams.md section 14.4)."""

    __slots__ = ("_peer",)

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def next(self, tried: Collection[Peer] = ()) -> Peer | None:
        """Return the peer unless it has been tried."""
        return None if self._peer in tried else self._peer


class RoundRobin:
    """Smooth weighted round robin: heavier peers more often, but never in a burst.

    Every pick raises each peer's current weight by its own weight, takes the highest, and lowers that one by
    the sum of all. With weights 3 and 1 the cycle is A A B A.
    """

    __slots__ = ("_current", "_peers", "_weights")

    def __init__(self, peers: Sequence[Peer], start: int = 0) -> None:
        """Balance over peers, the first ``start`` picks left out so that workers do not move in step."""
        weighted = [peer for peer in peers if peer.weight > 0]
        self._peers = tuple(weighted or peers)
        self._weights = tuple(peer.weight or 1 for peer in self._peers)
        self._current = [0] * len(self._peers)
        for _ in range(start % max(1, sum(self._weights)) if len(self._peers) else 0):
            self.next()

    def next(self, tried: Collection[Peer] = ()) -> Peer | None:
        """Return the peer whose turn it is among those not tried."""
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
        if best < 0:
            return None
        current[best] -= total
        return self._peers[best]


class Tiers:
    """Peers by priority: a lower tier is used only when every peer of the higher ones has been tried."""

    __slots__ = ("_tiers",)

    def __init__(self, tiers: Sequence[Balancer]) -> None:
        """Take the balancers of the tiers, the highest priority first."""
        self._tiers = tuple(tiers)

    def next(self, tried: Collection[Peer] = ()) -> Peer | None:
        """Return the choice of the first tier that has one."""
        for tier in self._tiers:
            peer = tier.next(tried)
            if peer is not None:
                return peer
        return None


BALANCERS: dict[str, Callable[[Sequence[Peer], int], Balancer]] = {"roundrobin": RoundRobin}


def build(type_: str, peers: Sequence[Peer], start: int) -> Balancer | None:
    """Build the balancer for the peers of an upstream; None when there are no peers.

    Raises:
        KeyError: there is no balancer of that name.
    """
    make = BALANCERS[type_]
    if len(peers) == 1:
        return Single(peers[0])
    priorities = sorted({peer.priority for peer in peers}, reverse=True)
    tiers = [make([peer for peer in peers if peer.priority == level], start) for level in priorities]
    return tiers[0] if len(tiers) == 1 else Tiers(tiers) if tiers else None
