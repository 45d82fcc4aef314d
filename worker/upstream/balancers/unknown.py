"""Unknown: stands in for a balancer that we do not have."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NoReturn

from worker.errors import UnknownBalancer

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.balancers.interface import Leaf
    from worker.upstream.peer import Peer


class Unknown:
    """Refuses every exchange: an unknown type makes requests fail, not the upstream (data-model.md section 5)."""

    __slots__ = ("_message",)

    def __init__(self, message: str) -> None:
        self._message = message

    def next(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> NoReturn:
        """Refuse; raises UnknownBalancer."""
        raise UnknownBalancer(self._message)

    def peek(self, exchange: "Exchange") -> None:
        """Return no peer."""

    def set_unhealthy(self, peers: "Collection[Peer]") -> None:
        """Go on: nobody is chosen."""

    def leaves(self) -> "Sequence[Leaf]":
        """Return none."""
        return ()
