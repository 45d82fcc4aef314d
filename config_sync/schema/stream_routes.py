"""Stream routes: which connections go where (data-model.md section 11)."""

from typing import Any

import msgspec

from config_sync.encryption import Keyring
from config_sync.schema.decoding import Context, Kind
from config_sync.schema.expressions import check_expression
from config_sync.schema.fields import (
    NOTHING,
    Id,
    NamedResource,
    Port,
    check_addresses,
    check_labels,
    checked_hosts,
)
from config_sync.schema.plugins import PluginConfigs, check_plugins
from config_sync.schema.upstreams import Upstream, check_upstream


class ProtocolLogger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A logger plugin for the messages of a protocol."""

    name: str
    filter: tuple[Any, ...] = ()
    conf: dict[str, Any] | None = None


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The protocol spoken on a connection (xRPC)."""

    name: str
    superior_id: Id = None
    conf: dict[str, Any] | None = None
    logger: tuple[ProtocolLogger, ...] = ()


class StreamRoute(NamedResource, kw_only=True, forbid_unknown_fields=True):
    """Which connections go where: all of the conditions that are given must hold."""

    remote_addr: str | None = None
    server_addr: str | None = None
    server_port: Port | None = None
    sni: str | None = None
    upstream: Upstream | None = None
    upstream_id: Id = None
    service_id: Id = None
    plugins: PluginConfigs = NOTHING
    protocol: Protocol | None = None


def _check(route: StreamRoute, context: Context) -> None:
    check_labels(route.labels, "$")
    if route.remote_addr is not None:
        check_addresses((route.remote_addr,), "$.remote_addr")
    if route.server_addr is not None:
        check_addresses((route.server_addr,), "$.server_addr")
    if route.sni is not None:
        (route.sni,) = checked_hosts((route.sni,), "$.sni")
    check_plugins(route.plugins, "$.plugins", context)
    if route.upstream is not None:
        check_upstream(route.upstream, "$.upstream", context)
    if route.protocol is not None:
        for at, logger in enumerate(route.protocol.logger):
            check_expression(logger.filter, f"$.protocol.logger[{at}].filter")


_STREAM_ROUTE = Kind(StreamRoute, _check)


def decode_stream_route(id_: str, raw: bytes, keyring: Keyring | None = None) -> tuple[StreamRoute, list[str]]:
    """Decode a value under ``stream_routes/``; see ``Kind.decode``."""
    return _STREAM_ROUTE.decode(id_, raw, keyring)
