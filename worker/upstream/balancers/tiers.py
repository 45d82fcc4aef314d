"""Tiers: peers by priority."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.balancers.interface import Leaf
    from worker.upstream.peer import Peer


class Tiers:
    """A lower tier is used only when every peer of the higher ones is unhealthy or has been tried."""

    __slots__ = ("_active", "_tiers")

    def __init__(self, tiers: "Sequence[Leaf]") -> None:
        """Take the balancers of the tiers, the highest priority first."""
        self._tiers = tuple(tiers)
        self._active = self._tiers

    def next(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> "Peer | None":
        """Return the choice of the first tier that has one."""
        for tier in self._active:
            peer = tier.next(exchange, tried)
            if peer is not None:
                return peer
        return None

    def peek(self, exchange: "Exchange") -> "Peer | None":
        """Return what the first tier would choose."""
        return self._active[0].peek(exchange)

    def set_unhealthy(self, peers: "Collection[Peer]") -> None:
        """Leave peers out, and tiers without any healthy one; when no tier has one, all are used."""
        active = tuple(tier for tier in self._tiers if any(peer not in peers for peer in tier.peers))
        self._active = active or self._tiers
        for tier in self._tiers:
            tier.set_unhealthy(peers)

    def leaves(self) -> "Sequence[Leaf]":
        """Return the tiers."""
        return self._tiers
