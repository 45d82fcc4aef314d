"""The secret managers there are, and what makes of their settings something that can be asked."""

from typing import TYPE_CHECKING

from config_sync import schema
from config_sync.cache import ConfigStore
from config_sync.errors import ConfigError
from config_sync.secrets import Resolver
from worker.secrets.aws import AwsSource
from worker.secrets.cache import SecretCache
from worker.secrets.gcp import GcpSource
from worker.secrets.source import SecretSource
from worker.secrets.vault import VaultSource

if TYPE_CHECKING:
    from worker.plugins.services import PluginServices

MANAGERS = ("vault", "aws", "gcp")


def open_secrets(services: "PluginServices", resolver: Resolver, store: ConfigStore) -> SecretCache:
    """Make what keeps secrets, let it be asked by ``resolver``, and let it hear of changes of the managers."""
    environment = Resolver()
    cache = SecretCache(services.loop, services.spawn, lambda found: open_source(found, services, environment))
    for name in MANAGERS:
        resolver.register(name, cache)
    store.subscribe(cache.changed, cache.stage)
    return cache


def open_source(
    settings: schema.SecretManagerSettings, services: "PluginServices", environment: Resolver
) -> SecretSource:
    """Make what asks a manager.

    Raises:
        ConfigError: it cannot be asked.
    """
    if isinstance(settings, schema.Vault):
        return VaultSource(settings, services.http, environment)
    if isinstance(settings, schema.Aws):
        return AwsSource(settings, services.http, environment)
    if isinstance(settings, schema.Gcp):
        return GcpSource(settings, services.http, environment, services.loop)
    raise ConfigError(f"nobody can be asked by {type(settings).__name__}")
