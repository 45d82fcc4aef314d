"""LeastConnections: the peer with the fewest requests under way, in proportion to its weight."""

from collections.abc import Collection, Sequence
from math import inf
from typing import TYPE_CHECKING

from worker.upstream.balancers.interface import usable, weighted

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.balancers.interface import Leaf
    from worker.upstream.load import Load
    from worker.upstream.peer import Peer

WINDOW = 32  # peers that are compared at most
SEEN_AT_ONCE = 500  # peers that are looked at before the first choice; about 0.5 ms


class LeastConnections:
    """Takes the peer whose (requests under way + 1) / weight is lowest; of equal ones, the next in turn.

    Of more than ``WINDOW`` peers, each choice compares so many, beginning behind the peer that was taken last. Requests
    of other workers count as they were when last looked at: before the first choice those of all peers, then at each
    choice those of one, in turn.
    """

    __slots__ = ("_around", "_at", "_count", "_floor", "_is_new", "_turn", "peers", "unhealthy")

    def __init__(self, peers: "Sequence[Peer]", start: int = 0) -> None:
        """Balance over peers, the one at ``start`` first so that workers do not move in step."""
        at = start % len(peers)
        self.peers = (*peers[at:], *peers[:at])
        self._turn = 0
        self._is_new = True
        self.set_unhealthy(())

    def set_unhealthy(self, peers: "Collection[Peer]") -> None:
        """Leave peers out."""
        self.unhealthy = tuple(peer for peer in self.peers if peer in peers)
        chosen, weights = weighted(usable(self.peers, peers))
        self._count = len(chosen)
        self._floor = 1 / max(weights)  # no score is lower
        self._at = 0
        places: list[tuple[Load, float, Peer, int]] = [
            (peer.load, 1 / weight, peer, at) for at, (peer, weight) in enumerate(zip(chosen, weights, strict=True))
        ]
        self._around = places * 2  # so that what follows any place is a slice

    def next(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> "Peer | None":
        """Return the least loaded peer."""
        if self._is_new:
            self._look_at_all()
        turn = self._turn = (self._turn + 1) % len(self.peers)
        self.peers[turn].load.refresh()
        peer, at = self._least(tried)
        self._at = (at + 1) % self._count
        return peer

    def _look_at_all(self) -> None:
        """See what other workers have under way, those that drain after a reload for example."""
        self._is_new = False
        for peer in self.peers[:SEEN_AT_ONCE]:
            peer.load.refresh()

    def _least(self, tried: "Collection[Peer]" = ()) -> "tuple[Peer | None, int]":
        begin, count = self._at, self._count
        # Of very many, those that have been tried must not be all that is compared.
        places = self._around[begin : begin + (count if tried else min(count, WINDOW))]
        least, least_at = None, begin
        lowest = inf
        for load, share, peer, at in places:
            score = (load.count + 1) * share
            if score < lowest and not (tried and peer in tried):
                least, least_at, lowest = peer, at, score
                if score <= self._floor:
                    break
        return least, least_at

    def peek(self, exchange: "Exchange") -> "Peer | None":
        """Return the least loaded peer."""
        return self._least()[0]

    def leaves(self) -> "Sequence[Leaf]":
        """Return itself."""
        return (self,)

    def inherit(self, old: "Leaf") -> None:
        """Take over nothing: what is known of nodes is in their loads."""
