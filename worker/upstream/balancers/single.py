"""Single: an upstream, or a priority, with one peer."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.balancers.interface import Leaf
    from worker.upstream.peer import Peer


class Single:
    """One peer: always that one, whatever its weight and health (upstreams.md section 14.4)."""

    __slots__ = ("_peer", "unhealthy")

    def __init__(self, peer: "Peer") -> None:
        self._peer = peer
        self.unhealthy: Collection[Peer] = ()

    def next(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> "Peer | None":
        """Return the peer unless it has been tried."""
        return None if self._peer in tried else self._peer

    def peek(self, exchange: "Exchange") -> "Peer | None":
        """Return the peer."""
        return self._peer

    def set_unhealthy(self, peers: "Collection[Peer]") -> None:
        """Go on: there is no other."""
        self.unhealthy = tuple(peer for peer in self.peers if peer in peers)

    @property
    def peers(self) -> "Sequence[Peer]":
        """The one peer."""
        return (self._peer,)

    def leaves(self) -> "Sequence[Leaf]":
        """Return itself."""
        return (self,)

    def inherit(self, old: "Leaf") -> None:
        """Take over nothing: there is nothing to know."""
