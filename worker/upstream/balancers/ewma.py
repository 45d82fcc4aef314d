"""Ewma: the peer that has lately been the quicker one of two."""

from collections.abc import Callable, Collection, Sequence
from random import random
from time import monotonic
from typing import TYPE_CHECKING

from worker.upstream.balancers.interface import usable

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.balancers.interface import Leaf
    from worker.upstream.peer import Peer


class Ewma:
    """Takes two different peers by chance, and of them the one whose moving average of response times is lower.

    Weights are ignored, 0 too, as in APISIX.
    """

    __slots__ = ("_clock", "_peers", "peers", "unhealthy")

    def __init__(self, peers: "Sequence[Peer]", clock: Callable[[], float] = monotonic) -> None:
        """Balance over peers; ``clock`` is that of their loads, in seconds."""
        self.peers = tuple(peers)
        self._clock = clock
        self._peers = self.peers
        self.unhealthy: Collection[Peer] = ()

    def set_unhealthy(self, peers: "Collection[Peer]") -> None:
        """Leave peers out."""
        self.unhealthy = tuple(peer for peer in self.peers if peer in peers)
        self._peers = usable(self.peers, peers)

    def next(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> "Peer | None":
        """Return the quicker of two."""
        peers = self._peers
        if tried:
            peers = tuple(peer for peer in peers if peer not in tried)
        count = len(peers)
        if count < 2:
            return peers[0] if peers else None
        at = int(random() * count)  # noqa: S311 - nothing secret
        first = peers[at]
        second = peers[(at + 1 + int(random() * (count - 1))) % count]  # noqa: S311
        now = self._clock()
        return first if first.load.score(now) <= second.load.score(now) else second

    def peek(self, exchange: "Exchange") -> "Peer | None":
        """Return the quicker of two."""
        return self.next(exchange)

    def leaves(self) -> "Sequence[Leaf]":
        """Return itself."""
        return (self,)

    def inherit(self, old: "Leaf") -> None:
        """Take over nothing: what is known of nodes is in their loads."""
