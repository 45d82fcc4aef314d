"""Tracked: a balancer whose choices are counted, and whose peers may be full.

An exchange that is given a peer holds one of its places (``exchange.place``) until it gives it back: ``serve`` does
at the end of the exchange, ``next`` when the exchange asks for another peer. Upstreams that need none of this are not
wrapped, and their exchanges hold nothing.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.balancers.interface import Balancer, Leaf
    from worker.upstream.load import Load
    from worker.upstream.peer import Peer
    from worker.upstream.queue import Queue


class Place:
    """The places at a peer, of which an exchange holds one."""

    __slots__ = ("_balancer", "_load")

    def __init__(self, balancer: "Tracked", load: "Load") -> None:
        self._balancer = balancer
        self._load = load

    def take(self, exchange: "Exchange") -> None:
        """Give one to an exchange."""
        self._load.enter()
        exchange.place = self
        clock = self._balancer.clock
        if clock is not None:
            exchange.placed_at = clock()

    def leave(self, exchange: "Exchange") -> None:
        """Take it back when the exchange has ended."""
        self.give_up(exchange)
        clock = self._balancer.clock
        if clock is not None and exchange.error is None:
            now = clock()
            self._load.sample(now - exchange.placed_at, now)

    def give_up(self, exchange: "Exchange") -> None:
        """Take it back when the try has failed: how long that took says nothing."""
        exchange.place = None
        self._load.leave()
        queue = self._balancer.queue
        if queue is not None:
            queue.wake()


class Tracked:
    """Counts what another balancer chooses, and keeps peers within their limits."""

    __slots__ = ("_inner", "_places", "clock", "queue")

    def __init__(
        self,
        inner: "Balancer",
        peers: "Sequence[Peer]",
        clock: Callable[[], float] | None = None,
        queue: "Queue | None" = None,
    ) -> None:
        """Wrap a balancer of ``peers``, all of which have a ``load``.

        Args:
            inner: what chooses.
            peers: all it can choose from.
            clock: seconds; None when response times are of no interest.
            queue: where exchanges wait when no peer has room; None when peers have no limit.
        """
        self._inner = inner
        self._places = {peer: Place(self, peer.load) for peer in peers}
        self.clock = clock
        self.queue = queue

    def next(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> "Peer | None":
        """Return a peer with room, and note that the exchange is there; None when there is no such peer.

        Nobody overtakes those who wait.
        """
        if exchange.place is not None:
            exchange.place.give_up(exchange)
        queue = self.queue
        if queue is not None and queue.waiting and not tried:
            return None
        return self.take(exchange, tried)

    def take(self, exchange: "Exchange", tried: "Collection[Peer]" = ()) -> "Peer | None":
        """Return a peer with room for an exchange whose turn it is."""
        peer = self._inner.next(exchange, tried)
        if peer is None:
            return None
        if peer.load.active >= peer.max_conns:
            peer = self._inner.next(exchange, (*tried, *(peer for peer in self._places if peer.is_full())))
            if peer is None:
                return None
        self._places[peer].take(exchange)
        return peer

    def peek(self, exchange: "Exchange") -> "Peer | None":
        """Return what the other would choose if all had room."""
        return self._inner.peek(exchange)

    def set_unhealthy(self, peers: "Collection[Peer]") -> None:
        """Leave peers out; what is healthy again may have room."""
        self._inner.set_unhealthy(peers)
        if self.queue is not None:
            self.queue.wake()

    def leaves(self) -> "Sequence[Leaf]":
        """Return the balancers that choose."""
        return self._inner.leaves()
