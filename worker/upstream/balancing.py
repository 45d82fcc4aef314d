"""Balancing: gives an upstream its balancer, and where its exchanges wait; what is known of its nodes goes along."""

import logging
from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from weakref import WeakValueDictionary

from config_sync import schema
from config_sync.steps import Stepper
from worker.exchange import Exchange
from worker.upstream import balancers
from worker.upstream.balancers import Balancer
from worker.upstream.balancers.build import BALANCERS, USES_LOAD
from worker.upstream.balancers.chash import ConsistentHash
from worker.upstream.balancers.hash_key import hash_key
from worker.upstream.balancers.ring import Node, Ring
from worker.upstream.balancers.tracked import Tracked
from worker.upstream.balancers.unknown import Unknown
from worker.upstream.load import Load
from worker.upstream.peer import Peer, Upstream
from worker.upstream.queue import Queue
from worker.upstream.shared_loads import LoadRow

log = logging.getLogger("propylon.switcher")

DEFAULT_QUEUE = schema.Queue()
SMALL_RING = 2_048  # points that are built at once, when first asked for: about 1 ms
WAIT_FOR_RING = 10_000  # exchanges that may wait for the ring of a new upstream


class Balancing:
    """Builds balancers."""

    def __init__(self, seed: int = 0, stepper: Stepper | None = None, row: LoadRow | None = None) -> None:
        """Build for one worker.

        Args:
            seed: differs between workers, so that their first choices do.
            stepper: does what takes long; without one it is done at once.
            row: tells other workers of our load, and us of theirs.
        """
        self._seed = seed
        self._stepper = stepper
        self._row = row
        self._rings: WeakValueDictionary[tuple[Node, ...], Ring] = WeakValueDictionary()

    def build(
        self, id_: str, config: schema.Upstream, peers: Sequence[Peer], previous: Upstream | None
    ) -> tuple[Balancer | None, Queue | None]:
        """Build the balancer for peers, None if there are none, and the queue of those it has no peer for."""
        if config.type not in BALANCERS:
            log.error("upstream %s: there is no type %s; its requests are answered with 500", id_, config.type)
            return Unknown(f"upstream {id_}: there is no type {config.type}"), None
        is_limited = any(peer.max_conns < inf for peer in peers)
        is_tracked = is_limited or config.type in USES_LOAD
        if is_tracked:
            hand_on_loads(id_, peers, previous, lambda name: self._load(name, config.type))
        balancer = self._chooser(id_, config, peers, previous)
        if balancer is None:
            return None, None
        is_ready = self._build_rings(balancer)
        queue = previous.queue if previous is not None else None
        if is_limited or not is_ready:
            queue = queue or Queue(id_)
            limits = config.queue or DEFAULT_QUEUE
            queue.size, queue.timeout = limits.size if is_limited else WAIT_FOR_RING, limits.timeout
        choose = balancer.next
        if is_tracked:
            clock = monotonic if config.type == "ewma" else None
            balancer = tracked = Tracked(balancer, peers, clock, queue if is_limited else None)
            choose = tracked.take
        if queue is not None:
            queue.choose = choose
            queue.wake()  # those who wait already may go on with what has changed
            wake_with_rings(balancer, queue)
        return balancer, queue if is_limited or not is_ready else None

    def _load(self, name: str, type_: str) -> Load:
        """Make the load of a node."""
        if type_ == "ewma":
            load = Load(name, timed=self._row)
            load.begin(monotonic())
            return load
        return Load(name, self._row if type_ == "least_conn" else None)

    def _chooser(
        self, id_: str, config: schema.Upstream, peers: Sequence[Peer], previous: Upstream | None
    ) -> Balancer | None:
        old = previous.balancer if previous is not None else None
        key = hash_key(id_, config) if config.type == "chash" else no_key
        balancer = balancers.build(config.type, peers, self._seed, key, old)
        if balancer is not None and previous is not None and config.checks is not None:
            leaves = old.leaves() if old is not None else ()
            unhealthy = {peer.address for leaf in leaves for peer in leaf.unhealthy}
            balancer.set_unhealthy([peer for peer in peers if peer.address in unhealthy])
        return balancer

    def _build_rings(self, balancer: Balancer) -> bool:
        """See to the rings of a balancer; False when there is nothing to choose by until they have been built."""
        hashes = [leaf for leaf in balancer.leaves() if isinstance(leaf, ConsistentHash)]
        for leaf in hashes:
            leaf.ring = self._rings.setdefault(leaf.ring.nodes, leaf.ring)
            if self._stepper is not None and not leaf.ring.is_begun and leaf.ring.count() > SMALL_RING:
                self._stepper.run(leaf.ring.begin(), nothing)
            if leaf.ring.is_begun and not leaf.ring.is_complete:
                leaf.ring.when_complete(leaf.completed)
        return all(leaf.can_answer() for leaf in hashes)


def wake_with_rings(balancer: Balancer, queue: Queue) -> None:
    """Let those who wait go on when the rings that are being built are there."""
    for leaf in balancer.leaves():
        if isinstance(leaf, ConsistentHash) and not leaf.ring.is_complete:
            leaf.ring.when_complete(queue.wake)


def hand_on_loads(id_: str, peers: Sequence[Peer], previous: Upstream | None, make: Callable[[str], Load]) -> None:
    """Give every peer a load: that which its node had before the upstream was changed, or a new one."""
    known = {peer.address: peer.load for peer in previous.peers if peer.is_tracked()} if previous is not None else {}
    for peer in peers:
        load = known.get(peer.address)
        if load is None:
            load = known[peer.address] = make(f"{id_} {peer.address}")
        peer.load = load


def no_key(exchange: Exchange) -> bytes:
    """Hash nothing; for balancers that do not."""
    return b""


def nothing() -> None:
    """Follow long work with nothing."""
