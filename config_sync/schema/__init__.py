"""The resources of the configuration, typed and checked (data-model.md sections 1 to 11).

Each directory below the prefix has a decoder, which makes a typed resource of the bytes of a value, in one form
(``uri`` becomes ``uris``, a map of nodes a list, ids text), with its defaults filled in and its secrets decrypted.
Every complaint carries the JSON path of the place.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Protocol

from config_sync.encryption import Keyring
from config_sync.schema.consumers import Consumer, Credential, decode_consumer
from config_sync.schema.decoding import AUTHENTICATION, PluginCheck
from config_sync.schema.fields import Resource, Timeout
from config_sync.schema.plugins import (
    ConsumerGroup,
    GlobalRule,
    ListedPlugin,
    PluginConfig,
    PluginMetadata,
    decode_consumer_group,
    decode_global_rule,
    decode_plugin_config,
    decode_plugin_list,
    decode_plugin_metadata,
)
from config_sync.schema.protos import Proto, decode_proto
from config_sync.schema.routes import Route, decode_route
from config_sync.schema.secrets import Aws, Gcp, SecretManagerSettings, Vault, decode_secret
from config_sync.schema.services import Service, decode_service
from config_sync.schema.ssls import Ssl, decode_ssl
from config_sync.schema.stream_routes import StreamRoute, decode_stream_route
from config_sync.schema.upstreams import (
    HealthChecks,
    KeepalivePool,
    Node,
    Queue,
    Upstream,
    UpstreamTls,
    decode_upstream,
)

Decoder = Callable[[str, bytes], tuple[Any, list[str]]]


class _KeyedDecoder(Protocol):
    def __call__(self, id_: str, raw: bytes, keyring: Keyring | None = None) -> tuple[Any, list[str]]: ...


_DECODERS: Mapping[str, _KeyedDecoder] = {
    "routes": decode_route,
    "services": decode_service,
    "upstreams": decode_upstream,
    "consumers": decode_consumer,
    "consumer_groups": decode_consumer_group,
    "global_rules": decode_global_rule,
    "plugin_configs": decode_plugin_config,
    "plugin_metadata": decode_plugin_metadata,
    "plugins": decode_plugin_list,
    "protos": decode_proto,
    "ssls": decode_ssl,
    "stream_routes": decode_stream_route,
    "secrets": decode_secret,
    # Their names in APISIX 2.x; what consumes them reads these with lower precedence.
    "proto": decode_proto,
    "ssl": decode_ssl,
}

DIRECTORIES: Collection[str] = _DECODERS.keys()
"""The names of the directories below the prefix."""


_WITH_PLUGINS: Mapping[str, Callable[..., tuple[Any, list[str]]]] = {
    "routes": decode_route,
    "services": decode_service,
    "consumers": decode_consumer,
    "consumer_groups": decode_consumer_group,
    "global_rules": decode_global_rule,
    "plugin_configs": decode_plugin_config,
    "plugin_metadata": decode_plugin_metadata,
}


def decoders(keyring: Keyring | None = None, check_plugin: PluginCheck | None = None) -> Mapping[str, Decoder]:
    """Return the decoder of each directory.

    Without a keyring encrypted texts stay as they are; without ``check_plugin`` plugins may be configured anyhow.
    """
    decoding = {directory: partial(decode, keyring=keyring) for directory, decode in _DECODERS.items()}
    if check_plugin is not None:
        for directory, decode in _WITH_PLUGINS.items():
            decoding[directory] = partial(decode, keyring=keyring, check_plugin=check_plugin)
    return decoding


__all__ = [
    "AUTHENTICATION",
    "DIRECTORIES",
    "Aws",
    "Consumer",
    "ConsumerGroup",
    "Credential",
    "Decoder",
    "Gcp",
    "GlobalRule",
    "HealthChecks",
    "KeepalivePool",
    "ListedPlugin",
    "Node",
    "PluginCheck",
    "PluginConfig",
    "PluginMetadata",
    "Proto",
    "Queue",
    "Resource",
    "Route",
    "SecretManagerSettings",
    "Service",
    "Ssl",
    "StreamRoute",
    "Timeout",
    "Upstream",
    "UpstreamTls",
    "Vault",
    "decode_consumer",
    "decode_consumer_group",
    "decode_global_rule",
    "decode_plugin_config",
    "decode_plugin_list",
    "decode_plugin_metadata",
    "decode_proto",
    "decode_route",
    "decode_secret",
    "decode_service",
    "decode_ssl",
    "decode_stream_route",
    "decode_upstream",
    "decoders",
]
