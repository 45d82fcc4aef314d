"""The balancers by name, and how they are put together for an upstream."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from worker.upstream.balancers.chash import ConsistentHash, HashKey
from worker.upstream.balancers.ewma import Ewma
from worker.upstream.balancers.interface import Balancer, Leaf
from worker.upstream.balancers.least_conn import LeastConnections
from worker.upstream.balancers.roundrobin import RoundRobin
from worker.upstream.balancers.single import Single
from worker.upstream.balancers.tiers import Tiers

if TYPE_CHECKING:
    from worker.upstream.peer import Peer

BALANCERS: "dict[str, Callable[[Sequence[Peer], int, HashKey], Leaf]]" = {
    "roundrobin": lambda peers, start, key: RoundRobin(peers, start),
    "chash": lambda peers, start, key: ConsistentHash(peers, key),
    "least_conn": lambda peers, start, key: LeastConnections(peers, start),
    "ewma": lambda peers, start, key: Ewma(peers),
}
USES_LOAD = frozenset(("least_conn", "ewma"))


def _no_key(exchange: object) -> bytes:
    return b""


def build(
    type_: str,
    peers: "Sequence[Peer]",
    start: int = 0,
    key: HashKey = _no_key,
    previous: Balancer | None = None,
) -> Balancer | None:
    """Build the balancer for the peers of an upstream; None when there are no peers.

    Args:
        type_: its name.
        peers: in the order of the configuration; with ``load`` when ``type_`` is one of ``USES_LOAD``.
        start: differs between workers, so that their first choices do.
        key: what ``chash`` hashes on.
        previous: the balancer of the same upstream before its change, whose knowledge is taken over.

    Raises:
        KeyError: there is no balancer of that name.
    """
    make = BALANCERS[type_]
    if not peers:
        return None
    if len(peers) == 1:
        return Single(peers[0])
    priorities = sorted({peer.priority for peer in peers}, reverse=True)
    tiers: list[Leaf] = []
    for priority in priorities:
        tier = [peer for peer in peers if peer.priority == priority]
        leaf = make(tier, start, key) if len(tier) > 1 else Single(tier[0])
        for old in previous.leaves() if previous is not None else ():
            leaf.inherit(old)
        tiers.append(leaf)
    return tiers[0] if len(tiers) == 1 else Tiers(tiers)
