"""Services: what several routes have in common (data-model.md section 4)."""

from config_sync.encryption import Keyring
from config_sync.schema.decoding import Context, Kind, PluginCheck
from config_sync.schema.fields import NOTHING, Hosts, Id, NamedResource, check_labels, checked_hosts, refuse_lua
from config_sync.schema.plugins import PluginConfigs, check_plugins
from config_sync.schema.upstreams import Upstream, check_upstream


class Service(NamedResource, kw_only=True, forbid_unknown_fields=True):
    """What several routes have in common."""

    plugins: PluginConfigs = NOTHING
    upstream: Upstream | None = None
    upstream_id: Id = None
    hosts: Hosts = ()
    enable_websocket: bool | None = None
    script: str | None = None


def _check(service: Service, context: Context) -> None:
    check_labels(service.labels, "$")
    refuse_lua(service.script, "$.script")
    if service.hosts:
        service.hosts = checked_hosts(service.hosts, "$.hosts")
    check_plugins(service.plugins, "$.plugins", context)
    if service.upstream is not None:
        check_upstream(service.upstream, "$.upstream", context)


_SERVICE = Kind(Service, _check)


def decode_service(
    id_: str, raw: bytes, keyring: Keyring | None = None, check_plugin: PluginCheck | None = None
) -> tuple[Service, list[str]]:
    """Decode a value under ``services/``; see ``Kind.decode``."""
    return _SERVICE.decode(id_, raw, keyring, check_plugin)
