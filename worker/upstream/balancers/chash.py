"""ConsistentHash: equal keys to the same peer, and few keys to another one when peers come and go."""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from worker.upstream.balancers.ring import Ring

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.balancers.interface import Leaf
    from worker.upstream.peer import Peer

HashKey = Callable[["Exchange"], bytes]


class ConsistentHash:
    """Takes the owner of the first point at or behind the key's; peers that must not be taken stay on the ring.

    While a ring of many points is being built, the ring before it answers; without one, ``next`` returns None.
    """

    __slots__ = ("_key", "_meanwhile", "_skipped", "peers", "ring", "unhealthy")

    def __init__(self, peers: "Sequence[Peer]", key: HashKey) -> None:
        """Balance over peers by what ``key`` returns of an exchange."""
        self.peers = tuple(peers)
        self.ring = Ring([(peer.address, peer.weight) for peer in peers])
        self._key = key
        self.unhealthy: frozenset[Peer] = frozenset()
        self._skipped = self.unhealthy  # none, when all are unhealthy
        # The ring before, and for each of its owners the peer of ours that has its address.
        self._meanwhile: tuple[Ring, Sequence[Peer | None]] | None = None

    def next(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> "Peer | None":
        """Return the owner of the exchange's key, or the next one on the ring that may be taken."""
        ring = self.ring
        if not ring.is_complete:
            if ring.is_begun:
                return self._next_meanwhile(exchange, tried)
            ring.complete()
            self.completed()
        at = ring.find(self._key(exchange))
        peer = self.peers[ring.owners[at]]
        if (tried and peer in tried) or peer in self._skipped:
            return walk(ring, self.peers, at, {*self._skipped, *tried})
        return peer

    def _next_meanwhile(self, exchange: "Exchange", tried: "Collection[Peer]") -> "Peer | None":
        if self._meanwhile is None:
            return None
        ring, peers = self._meanwhile
        return walk(ring, peers, ring.find(self._key(exchange)), {*self._skipped, *tried, None})

    def peek(self, exchange: "Exchange") -> "Peer | None":
        """Return the owner of the exchange's key."""
        return self.next(exchange)

    def set_unhealthy(self, peers: "Collection[Peer]") -> None:
        """Skip peers on the ring."""
        self.unhealthy = frozenset(peer for peer in self.peers if peer in peers)
        self._skipped = self.unhealthy if len(self.unhealthy) < len(self.peers) else frozenset()

    def can_answer(self) -> bool:
        """Tell whether ``next`` returns a peer: its ring has been built, can be at once, or another one is there."""
        return self.ring.is_complete or not self.ring.is_begun or self._meanwhile is not None

    def completed(self) -> None:
        """Forget the ring before: the new one has been built."""
        self._meanwhile = None

    def leaves(self) -> "Sequence[Leaf]":
        """Return itself."""
        return (self,)

    def inherit(self, old: "Leaf") -> None:
        """Use the points of nodes that stay, and the whole ring until the new one is built."""
        if not isinstance(old, ConsistentHash):
            return
        self.ring.reuse(old.ring)
        ring, owners = (old.ring, old.peers) if old.ring.is_complete else old._meanwhile or (None, ())
        if ring is not None:
            known = {peer.address: peer for peer in self.peers}
            self._meanwhile = ring, [known.get(peer.address) if peer is not None else None for peer in owners]


def walk(ring: Ring, peers: "Sequence[Peer | None]", at: int, excluded: "Collection[Peer | None]") -> "Peer | None":
    """Return the first owner from a point on that is not excluded; None when all are."""
    if all(peer in excluded for peer in peers):
        return None
    owners = ring.owners
    count = len(owners)
    for step in range(at, at + count):
        peer = peers[owners[step % count]]
        if peer not in excluded:
            return peer
    return None  # those that are left have no points: their weight is 0
