"""LeastConnections: the peer with the fewest requests under way, in proportion to its weight."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from worker.upstream.balancers.interface import usable, weighted

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.balancers.interface import Leaf
    from worker.upstream.load import Load
    from worker.upstream.peer import Peer


class LeastConnections:
    """Takes the peer whose (requests under way + 1) / weight is lowest; of equal ones, the one not taken for longest.

    So peers that are all idle are taken in turn. Requests of other workers count: of one peer at each choice, in turn,
    they are counted anew.
    """

    __slots__ = ("_places", "_turn", "peers", "unhealthy")

    def __init__(self, peers: "Sequence[Peer]", start: int = 0) -> None:
        """Balance over peers, the one at ``start`` first so that workers do not move in step."""
        at = start % len(peers)
        self.peers = (*peers[at:], *peers[:at])
        self._turn = 0
        self.set_unhealthy(())

    def set_unhealthy(self, peers: "Collection[Peer]") -> None:
        """Leave peers out."""
        self.unhealthy = tuple(peer for peer in self.peers if peer in peers)
        chosen, weights = weighted(usable(self.peers, peers))
        self._places: list[tuple[Peer, Load, float]] = [
            (peer, peer.load, 1 / weight) for peer, weight in zip(chosen, weights, strict=True)
        ]

    def next(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> "Peer | None":
        """Return the least loaded peer."""
        turn = self._turn = (self._turn + 1) % len(self.peers)
        self.peers[turn].load.refresh()
        place = self._least(tried)
        if place is None:
            return None
        self._places.remove(place)
        self._places.append(place)
        return place[0]

    def _least(self, tried: "Collection[Peer]" = ()) -> "tuple[Peer, Load, float] | None":
        least = None
        lowest = 0.0
        for place in self._places:
            load = place[1]
            score = (load.active + load.others + 1) * place[2]
            if (least is None or score < lowest) and not (tried and place[0] in tried):
                least, lowest = place, score
        return least

    def peek(self, exchange: "Exchange") -> "Peer | None":
        """Return the least loaded peer."""
        place = self._least()
        return None if place is None else place[0]

    def leaves(self) -> "Sequence[Leaf]":
        """Return itself."""
        return (self,)

    def inherit(self, old: "Leaf") -> None:
        """Take over nothing: what is known of nodes is in their loads."""
