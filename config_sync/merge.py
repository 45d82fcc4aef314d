"""What a request sees of the resources that apply to it (data-model.md section 15).

A plugin's configuration is taken whole from the highest layer that has it: consumer, consumer group, route, plugin
config, service. Global rules are not merged; they run beside. Nothing here is looked up: what a reference names is
given, and its absence is the caller's case.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from config_sync.schema.consumers import Consumer
from config_sync.schema.decoding import AUTHENTICATION
from config_sync.schema.fields import Timeout
from config_sync.schema.plugins import ConsumerGroup, PluginConfig, is_disabled
from config_sync.schema.routes import Route
from config_sync.schema.services import Service
from config_sync.schema.stream_routes import StreamRoute
from config_sync.schema.upstreams import Upstream

R = TypeVar("R", Route, Service, PluginConfig, Consumer, ConsumerGroup, StreamRoute)


class Stored(NamedTuple, Generic[R]):
    """A resource, with the key below the prefix and the revision of its record."""

    key: str
    revision: int
    resource: R


class PluginUse(NamedTuple):
    """A plugin's configuration and the record in which it is written, whose key names the plugin's counters."""

    config: Mapping[str, Any]
    key: str
    revision: int

    @property
    def is_disabled(self) -> bool:
        """Whether the plugin does not run."""
        return is_disabled(self.config)


PluginUses = Mapping[str, PluginUse]


@dataclass(frozen=True)
class Target:
    """Where requests go: an upstream by id, one written in place, or (both None) nowhere."""

    upstream_id: str | None = None
    upstream: Upstream | None = None


@dataclass(frozen=True)
class Merged:
    """A route with what applies to it. State that is kept by ``version`` begins anew when any part changes."""

    id: str
    version: str
    name: str | None
    labels: Mapping[str, Any] | None
    hosts: tuple[str, ...]
    plugins: PluginUses
    target: Target
    timeout: Timeout | None
    enable_websocket: bool
    service_id: str | None
    service_name: str | None


@dataclass(frozen=True)
class MergedStream:
    """A stream route with what applies to it."""

    id: str
    version: str
    plugins: PluginUses
    target: Target
    service_id: str | None


def merge(
    route: Stored[Route], plugin_config: Stored[PluginConfig] | None = None, service: Stored[Service] | None = None
) -> Merged:
    """Merge a route with the plugin config and the service that it names."""
    plugins = {**_plugins_of(service), **_plugins_of(plugin_config), **_plugins_of(route)}
    version = str(route.revision)
    if plugin_config is not None:
        version += f"#{plugin_config.revision}"
    own = route.resource
    base = Service()
    if service is not None:
        base = service.resource
        version += f"&{service.revision}"
    websocket = own.enable_websocket if own.enable_websocket is not None else base.enable_websocket
    return Merged(
        id=own.id or "",
        version=version,
        name=own.name,
        labels=own.labels if own.labels is not None else base.labels,
        hosts=own.hosts or base.hosts,
        plugins=plugins,
        target=_target(own, base),
        timeout=own.timeout,
        enable_websocket=bool(websocket),
        service_id=own.service_id,
        service_name=base.name,
    )


def lay_over(
    merged: Merged,
    consumer: Stored[Consumer],
    group: Stored[ConsumerGroup] | None = None,
    credentials: frozenset[str] = AUTHENTICATION,
) -> Merged:
    """Lay the plugins of a consumer and of its group over what a request sees; credentials do not run."""
    version = merged.version if group is None else f"{merged.version}&{group.revision}"
    # Consumers written in one transaction have the same revision: the name tells them apart.
    version += f"&{consumer.resource.username}#{consumer.revision}"
    return replace(merged, plugins={**merged.plugins, **laid_over(consumer, group, credentials)}, version=version)


def laid_over(
    consumer: Stored[Consumer] | None,
    group: Stored[ConsumerGroup] | None,
    credentials: frozenset[str] = AUTHENTICATION,
) -> PluginUses:
    """Return the plugins of a consumer over those of its group; credentials do not run."""
    own = {name: use for name, use in _plugins_of(consumer).items() if name not in credentials}
    return {**_plugins_of(group), **own}


def merge_stream(route: Stored[StreamRoute], service: Stored[Service] | None = None) -> MergedStream:
    """Merge a stream route with the service that it names."""
    return MergedStream(
        id=route.resource.id or "",
        version=str(route.revision) if service is None else f"{route.revision}&{service.revision}",
        plugins={**_plugins_of(service), **_plugins_of(route)},
        target=_target(route.resource, service.resource if service is not None else Service()),
        service_id=route.resource.service_id,
    )


def _plugins_of(stored: Stored[R] | None) -> dict[str, PluginUse]:
    if stored is None:
        return {}
    return {name: PluginUse(config, stored.key, stored.revision) for name, config in stored.resource.plugins.items()}


def _target(route: Route | StreamRoute, service: Service) -> Target:
    """Choose the route's own upstream, else the service's; where both forms stand, the id is used."""
    owner = route if route.upstream_id is not None or route.upstream is not None else service
    return Target(upstream_id=owner.upstream_id) if owner.upstream_id is not None else Target(upstream=owner.upstream)
