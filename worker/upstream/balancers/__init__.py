"""Which peer takes the next request (upstreams.md section 3).

    Tracked         counts requests under way; only for least_conn, ewma and max_conns
      Tiers         peers by priority; only when they have several
        RoundRobin | ConsistentHash | LeastConnections | Ewma | Single

Each decides and does nothing else. ``build`` puts together what an upstream needs and no more, so that an
ordinary upstream has a ``RoundRobin`` or a ``Single`` and pays for nothing else.
"""

from worker.upstream.balancers.build import build
from worker.upstream.balancers.interface import Balancer

__all__ = ["Balancer", "build"]
