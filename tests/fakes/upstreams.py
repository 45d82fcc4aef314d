"""What builds upstreams, as in a worker."""

import asyncio
from collections.abc import Mapping
from typing import Any
from unittest.mock import Mock

from worker.discovery.registry import Discovery, DiscoveryRegistry
from worker.upstream.balancing import Balancing
from worker.upstream.builder import UpstreamBuilder
from worker.upstream.dns import DnsClient
from worker.upstream.hosts import HostsFile
from worker.upstream.pool import Pools
from worker.upstream.resolver import Resolver
from worker.upstream.tls import TlsProfiles
from worker.upstream.transport import Transport


def upstream_builder(
    pools: Pools[Any],
    loop: asyncio.AbstractEventLoop | None = None,
    discoveries: Mapping[str, Discovery] | None = None,
    balancing: Balancing | None = None,
) -> UpstreamBuilder:
    """Make a builder; without a loop nothing can be resolved."""
    loop = loop or Mock(asyncio.AbstractEventLoop)
    resolver = Resolver(loop, DnsClient(loop), HostsFile(loop))
    return UpstreamBuilder(
        Transport(pools, resolver, TlsProfiles()), DiscoveryRegistry(loop, discoveries or {}), balancing or Balancing()
    )
