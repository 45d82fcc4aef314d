"""The secret managers there are, and what makes of their settings something that can be asked."""

from typing import TYPE_CHECKING

from config_sync import schema
from config_sync.cache import ConfigStore
from config_sync.errors import ConfigError
from config_sync.secrets import Resolver
from worker.plugins.http_client import HttpClient
from worker.secrets.cache import SecretCache
from worker.secrets.source import SecretSource
from worker.secrets.vault import VaultSource

if TYPE_CHECKING:
    from worker.plugins.services import PluginServices

MANAGERS = ("vault",)


def open_secrets(services: "PluginServices", resolver: Resolver, store: ConfigStore) -> SecretCache:
    """Make what keeps secrets, let it be asked by ``resolver``, and let it hear of changes of the managers."""
    environment = Resolver()
    cache = SecretCache(services.loop, services.spawn, lambda found: open_source(found, services.http, environment))
    for name in MANAGERS:
        resolver.register(name, cache)
    store.subscribe(cache.changed, cache.stage)
    return cache


def open_source(settings: schema.SecretManagerSettings, http: HttpClient, environment: Resolver) -> SecretSource:
    """Make what asks a manager.

    Raises:
        ConfigError: it cannot be asked.
    """
    if isinstance(settings, schema.Vault):
        return VaultSource(settings, http, environment)
    raise ConfigError("there is nothing yet that asks such a manager")
