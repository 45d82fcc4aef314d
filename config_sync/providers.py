"""Which provider the settings ask for; the others are not imported, which a worker's start would wait for."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from config_sync.cache import ConfigStore
from config_sync.provider import Provider
from config_sync.settings import Settings


def open_provider(
    settings: Settings, store: ConfigStore, loop: asyncio.AbstractEventLoop, on_progress: Callable[[int], None]
) -> Provider:
    """Make the provider that ``config_provider`` names; it is still to be started.

    Raises:
        SettingsError: its settings are of no use.
    """
    if settings.config_provider == "yaml":
        from config_sync.file import FileProvider

        return FileProvider(settings.yaml, store, loop, on_progress)

    from config_sync.etcd.sync import EtcdProvider

    def watch(on_progress: Callable[[int], None]) -> Provider:
        return EtcdProvider(settings.etcd, store, loop, on_progress)

    if settings.etcd.watch == "worker":
        return watch(on_progress)
    from config_sync.relay.election import relay_name
    from config_sync.relay.provider import RelayProvider

    directory = Path(settings.runtime_dir)
    return RelayProvider(directory, relay_name(settings.etcd), watch, store, loop, on_progress)
