"""The discoveries that the settings enable."""

import asyncio

from config_sync.settings import Settings
from worker.discovery.dns import DnsDiscovery
from worker.discovery.registry import Discovery, DiscoveryRegistry


def open_discoveries(settings: Settings, loop: asyncio.AbstractEventLoop) -> DiscoveryRegistry:
    """Make those that have a section under ``discovery``."""
    found: dict[str, Discovery] = {}
    if settings.discovery.dns is not None:
        found["dns"] = DnsDiscovery(loop, settings.discovery.dns, settings.resolver_timeout, settings.enable_ipv6)
    return DiscoveryRegistry(loop, found)
