"""Balancer: what an exchange, the health checks and a successor ask of one."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.peer import Peer


class Balancer(Protocol):
    """Chooses among the peers it was built for."""

    def next(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> "Peer | None":
        """Return the peer for the next try of an exchange.

        None when there is none: all have been tried, or, at the first try, those that are left have no room
        (``Queue``).
        """

    def peek(self, exchange: "Exchange") -> "Peer | None":
        """Return the peer that ``next`` would return, and change nothing; where chance decides, one of several."""

    def set_unhealthy(self, peers: "Collection[Peer]") -> None:
        """Leave these out from now on, and no others; when they are all there are, none is left out."""

    def leaves(self) -> "Sequence[Leaf]":
        """Return the balancers that choose, one for each priority."""


class Leaf(Balancer, Protocol):
    """A balancer for peers of one priority."""

    @property
    def peers(self) -> "Sequence[Peer]":
        """All peers, healthy or not."""

    @property
    def unhealthy(self) -> "Collection[Peer]":
        """Those of them that were last said to be unhealthy."""

    def inherit(self, old: "Leaf") -> None:
        """Take over what another balancer knows of the nodes that both have; before the first choice."""


def usable(peers: "Sequence[Peer]", unhealthy: "Collection[Peer]") -> "tuple[Peer, ...]":
    """Return the peers that are healthy, or all when none is (upstreams.md section 3, health filter)."""
    healthy = tuple(peer for peer in peers if peer not in unhealthy)
    return healthy or tuple(peers)


def weighted(peers: "Sequence[Peer]") -> "tuple[tuple[Peer, ...], tuple[int, ...]]":
    """Return the peers that have a weight, and their weights; when none has, all with the same."""
    heavy = tuple(peer for peer in peers if peer.weight > 0)
    return heavy or tuple(peers), tuple(peer.weight for peer in heavy) or (1,) * len(peers)
