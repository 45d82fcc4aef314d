"""Zones for tests, which nobody else uses."""

from pathlib import Path
from typing import Any

from worker.plugins.testing import OK, PluginKit

ZONES = [
    {"name": "disk_cache_one", "disk_size": 1_000_000, "disk_path": "disk"},
    {"name": "memory_cache", "memory_size": 1_000_000},
]
MEMORY = {"cache_strategy": "memory", "cache_zone": "memory_cache"}


def cached(directory: Path, config: dict[str, Any], **more: Any) -> PluginKit:
    """Return a worker with a cache, and an upstream that counts its answers."""
    settings = {"runtime_dir": str(directory), "proxy_cache": {"zones": ZONES, "cache_ttl": 20}}
    plugins = {"proxy-cache": config, **more.pop("plugins", {})}
    kit = PluginKit(plugins, more.pop("records", None), settings=settings, **more)
    kit.upstream_answers = lambda request: numbered(kit)
    return kit


def numbered(kit: PluginKit, *fields: str) -> bytes:
    """Return the upstream's answer, which tells the how manieth it is."""
    body = str(len(kit.received)).encode()
    return "\r\n".join(["HTTP/1.1 200 OK", *fields, f"Content-Length: {len(body)}", "", ""]).encode() + body


__all__ = ["MEMORY", "OK", "ZONES", "cached", "numbered"]
