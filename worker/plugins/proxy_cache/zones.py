"""The zones of a worker, opened by the first plugin that uses one, and kept tidy."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from config_sync.errors import InvalidResource
from worker.plugins.proxy_cache.zone import Zone
from worker.supervisor import memory_zones

if TYPE_CHECKING:
    from config_sync.settings import CacheZone, Settings
    from worker.plugins.services import PluginServices

T = TypeVar("T")

LOOK = 1.0  # seconds between two looks at whether there is too much
SWEEP_EVERY = 30.0  # seconds

_opened: "WeakKeyDictionary[PluginServices, dict[str, Zone]]" = WeakKeyDictionary()


def find_zone(settings: "Settings", name: str, is_in_memory: bool) -> "CacheZone":
    """Return a zone of the settings; InvalidResource when there is none of this name and kind."""
    zone = next((zone for zone in settings.proxy_cache.zones if zone.name == name), None)
    if zone is None:
        raise InvalidResource("$.cache_zone", f"there is no zone {name} in the settings' proxy_cache.zones")
    if bool(zone.disk_path) is is_in_memory:
        kind = "on disk" if zone.disk_path else "in memory"
        raise InvalidResource("$.cache_zone", f"zone {name} is {kind}, and cache_strategy is not")
    return zone


def open_zone(services: "PluginServices", name: str, is_in_memory: bool) -> Zone:
    """Return a zone of the settings.

    Raises:
        InvalidResource: there is none of this name and kind, or it cannot be used.
    """
    zones = _opened.setdefault(services, {})
    if name not in zones:
        found = find_zone(services.settings, name, is_in_memory)
        try:
            zones[name] = _made(found, services.settings)
        except OSError as error:
            raise InvalidResource("$.cache_zone", f"zone {name} cannot be used: {error}") from error
        services.spawn(_keep_tidy(zones[name], services.loop))
    return zones[name]


def _made(zone: "CacheZone", settings: "Settings") -> Zone:
    if zone.disk_path:
        return Zone(settings.path(zone.disk_path), zone.disk_size, is_in_memory=False)
    directory = memory_zones.memory_directory(settings, zone.name)
    opened = Zone(directory, zone.memory_size, is_in_memory=True)
    memory_zones.claim(directory, settings)
    return opened


async def _keep_tidy(zone: Zone, loop: asyncio.AbstractEventLoop) -> None:
    due = 0.0
    while True:
        await asyncio.sleep(LOOK)
        if zone.is_full or loop.time() >= due:
            due = loop.time() + SWEEP_EVERY
            await loop.run_in_executor(None, zone.sweep)


def in_thread(services: "PluginServices", function: Callable[..., T], *arguments: Any) -> "asyncio.Future[T]":
    """Do something that may wait for a disk."""
    return services.loop.run_in_executor(None, partial(function, *arguments))
