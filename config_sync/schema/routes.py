"""Routes: which requests go where (data-model.md section 3)."""

from typing import Annotated, Any, Literal

from msgspec import Meta

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema.decoding import Context, Kind, PluginCheck
from config_sync.schema.expressions import check_expression
from config_sync.schema.fields import (
    NOTHING,
    Addresses,
    Hosts,
    Id,
    NamedResource,
    Switch,
    Timeout,
    check_addresses,
    check_labels,
    checked_hosts,
    refuse_lua,
    refuse_repeated,
)
from config_sync.schema.plugins import PluginConfigs, check_plugins
from config_sync.schema.upstreams import Upstream, check_upstream

Uri = Annotated[str, Meta(min_length=1, max_length=4096)]
Method = Literal["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"]


class Route(NamedResource, kw_only=True, forbid_unknown_fields=True):
    """Which requests go where; ``uris``, ``hosts`` and ``remote_addrs`` are filled, whichever form was written."""

    uri: Uri | None = None
    uris: Annotated[tuple[Uri, ...], Meta(min_length=1)] = ()
    host: str | None = None
    hosts: Hosts = ()
    remote_addr: str | None = None
    remote_addrs: Addresses = ()
    methods: tuple[Method, ...] = ()
    priority: int = 0
    vars: tuple[Any, ...] = ()
    filter_func: str | None = None
    plugins: PluginConfigs = NOTHING
    plugin_config_id: Id = None
    script: str | None = None
    script_id: Id = None
    upstream: Upstream | None = None
    upstream_id: Id = None
    service_id: Id = None
    timeout: Timeout | None = None
    enable_websocket: bool | None = None
    status: Switch = 1


def _check(route: Route, context: Context) -> None:
    check_labels(route.labels, "$")
    refuse_lua(route.filter_func, "$.filter_func")
    refuse_lua(route.script, "$.script")
    if (
        route.upstream_id is None
        and route.service_id is None
        and route.upstream is None
        and route.plugins is NOTHING  # an empty object that was written is enough
    ):
        raise InvalidResource("$", "one of plugins, upstream, upstream_id and service_id is required")
    _check_uris(route)
    _check_hosts(route)
    _check_addresses(route)
    refuse_repeated(route.methods, "$.methods")
    if route.vars:
        check_expression(route.vars, "$.vars")
    if route.plugins:
        check_plugins(route.plugins, "$.plugins", context)
    if route.upstream is not None:
        check_upstream(route.upstream, "$.upstream", context)


def _check_uris(route: Route) -> None:
    if route.uri is None:
        if not route.uris:
            raise InvalidResource("$", "one of uri and uris is required")
        refuse_repeated(route.uris, "$.uris")
    elif route.uris:
        raise InvalidResource("$.uris", "must not stand beside uri")
    else:
        route.uris = (route.uri,)


def _check_hosts(route: Route) -> None:
    if route.host is None:
        if route.hosts:
            route.hosts = checked_hosts(route.hosts, "$.hosts")
    elif route.hosts:
        raise InvalidResource("$.hosts", "must not stand beside host")
    else:
        route.hosts = checked_hosts((route.host,), "$.host")


def _check_addresses(route: Route) -> None:
    if route.remote_addr is None:
        if route.remote_addrs:
            check_addresses(route.remote_addrs, "$.remote_addrs")
    elif route.remote_addrs:
        raise InvalidResource("$.remote_addrs", "must not stand beside remote_addr")
    else:
        route.remote_addrs = (route.remote_addr,)
        check_addresses(route.remote_addrs, "$.remote_addr")


_ROUTE = Kind(Route, _check)


def decode_route(
    id_: str, raw: bytes, keyring: Keyring | None = None, check_plugin: PluginCheck | None = None
) -> tuple[Route, list[str]]:
    """Decode a value under ``routes/``; see ``Kind.decode``."""
    return _ROUTE.decode(id_, raw, keyring, check_plugin)
