"""What settings may be, besides their types."""

import re
from ipaddress import ip_network

from config_sync.errors import SettingsError
from config_sync.settings import Settings, parse_address, parse_server
from config_sync.settings_metrics import KEY as METRICS

DNS_RECORDS = ("last", "srv", "a", "aaaa", "cname")
_ZONE_NAME = re.compile(r"[A-Za-z0-9_\-]{1,64}")
_LEVELS = re.compile(r"[12](:[12]){0,2}")
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def check_settings(settings: Settings) -> None:
    """Check what types do not tell; raises SettingsError with the key, and what would be right."""

    def require(holds: bool, text: str) -> None:
        if not holds:
            raise SettingsError(text)

    require(
        settings.worker_processes == "auto" or 1 <= settings.worker_processes <= 1024,
        "worker_processes: must be auto or 1 to 1024",
    )
    require(bool(settings.listen), "listen: must name at least one address")
    require(settings.backlog >= 1, "backlog: must be at least 1")
    require(settings.large_client_header_buffers >= 1024, "large_client_header_buffers: must be at least 1k")
    require(settings.client_max_body_size >= 0, "client_max_body_size: must be at least 0")
    _check_addresses(settings)
    require(settings.max_post_args_readable_size >= 0, "max_post_args_readable_size: must be at least 0 (0: no limit)")
    require(settings.client_body_buffer_size >= 1024, "client_body_buffer_size: must be at least 1k")
    require(settings.worker_connections >= 1, "worker_connections: must be at least 1")
    require(bool(settings.etcd.host), "etcd.host: must name at least one endpoint")
    require(
        settings.etcd.prefix.startswith("/") and not settings.etcd.prefix.endswith("/"),
        "etcd.prefix: must begin with a slash and not end with one",
    )
    for name in Settings.__struct_fields__:
        if name.endswith("_timeout"):
            require(getattr(settings, name) > 0, f"{name}: must be greater than 0 seconds")
    for name in ("keepalive_min", "close_spread"):
        require(getattr(settings, name) >= 0, f"{name}: must be at least 0 seconds")
    for name in ("timeout", "watch_timeout", "resync_delay", "health_check_timeout", "startup_timeout"):
        require(getattr(settings.etcd, name) > 0, f"etcd.{name}: must be greater than 0 seconds")
    for name in ("audit_interval", "deep_audit_interval"):
        require(getattr(settings.etcd, name) >= 0, f"etcd.{name}: must be at least 0 seconds (0: never)")
    _check_names(settings)
    _check_processes(settings)
    _check_cache(settings)
    require(0 < settings.guard.max_removed_share <= 1, "guard.max_removed_share: must be above 0 and at most 1")
    require(settings.guard.min_routes >= 0, "guard.min_routes: must be at least 0")
    require(settings.guard.hold >= 0, "guard.hold: must be at least 0 seconds (0: until confirmed)")
    require(settings.router.verify_interval >= 0, "router.verify_interval: must be at least 0 seconds (0: never)")
    for name in ("failure_budget", "hook_timeout"):
        require(getattr(settings.plugins, name) >= 0, f"plugins.{name}: must be at least 0 (0: no limit)")
    require(settings.plugins.failure_window > 0, "plugins.failure_window: must be greater than 0 seconds")
    for at, key in enumerate(settings.data_encryption.keyring):
        require(len(key.encode()) in (16, 32), f"data_encryption.keyring[{at}]: must have 16 or 32 bytes")
    _check_listening(settings)


def _check_listening(settings: Settings) -> None:
    for at, text in enumerate(settings.listen):
        try:
            parse_address(text)
        except SettingsError as error:
            raise SettingsError(f"listen[{at}]: {error}") from error
    if len(set(settings.addresses())) < len(settings.listen):
        raise SettingsError("listen: has the same address twice")
    try:
        control = settings.control_address()
    except SettingsError as error:
        raise SettingsError(f"control.listen: {error}") from error
    if control in settings.addresses():
        raise SettingsError("control.listen: must not be an address of listen")
    try:
        metrics = settings.metrics_address()
    except SettingsError as error:
        raise SettingsError(f"{METRICS}.export_addr: {error}" if METRICS not in str(error) else str(error)) from error
    if metrics is not None and metrics in [*settings.addresses(), control]:
        raise SettingsError(f"{METRICS}.export_addr: must be an address of its own")


def _check_cache(settings: Settings) -> None:
    if settings.proxy_cache.cache_ttl <= 0:
        raise SettingsError("proxy_cache.cache_ttl: must be greater than 0 seconds")
    names = set()
    for at, zone in enumerate(settings.proxy_cache.zones):
        key = f"proxy_cache.zones[{at}]"
        if _ZONE_NAME.fullmatch(zone.name) is None or zone.name in names:
            raise SettingsError(f"{key}.name: must be one of its own, of letters, digits, - and _")
        names.add(zone.name)
        if zone.memory_size <= 0:
            raise SettingsError(f"{key}.memory_size: must be greater than 0")
        if bool(zone.disk_path) != (zone.disk_size > 0):
            raise SettingsError(f"{key}: disk_path and disk_size must be given both, or none of them")
        if _LEVELS.fullmatch(zone.cache_levels) is None:
            raise SettingsError(f"{key}.cache_levels: must be one to three of 1 and 2, as in 1:2")


def _check_names(settings: Settings) -> None:
    if settings.dns_resolver_valid < 0:
        raise SettingsError("dns_resolver_valid: must be at least 0 seconds (0: as the TTL says)")
    lists = {"dns_resolver": settings.dns_resolver}
    dns = settings.discovery.dns
    if dns is not None:
        lists["discovery.dns.servers"] = dns.servers
        for at, kind in enumerate(dns.order):
            if kind.lower() not in DNS_RECORDS:
                raise SettingsError(f"discovery.dns.order[{at}]: must be one of last, SRV, A, AAAA and CNAME")
    for key, servers in lists.items():
        for at, text in enumerate(servers):
            try:
                parse_server(text)
            except SettingsError as error:
                raise SettingsError(f"{key}[{at}]: {error}") from error


def _check_processes(settings: Settings) -> None:
    limits = {f"reload.{name}": getattr(settings.reload, name) for name in ("grace", "drain_wait")}
    limits |= {name: getattr(settings, name) for name in ("max_worker_rss", "max_worker_requests")}
    for name, limit in limits.items():
        if limit < 0:
            raise SettingsError(f"{name}: must be at least 0")
    if settings.reload.check_timeout <= 0:
        raise SettingsError("reload.check_timeout: must be greater than 0 seconds")
    if settings.max_generations < 1:
        raise SettingsError("max_generations: must be at least 1")


def _check_addresses(settings: Settings) -> None:
    header = settings.real_ip_header
    if header == "proxy_protocol":
        raise SettingsError("real_ip_header: proxy_protocol is not available; name a header field, or leave it empty")
    if header and _FIELD_NAME.fullmatch(header) is None:
        raise SettingsError(f"real_ip_header: {header!r} is no name of a header field")
    for name in ("real_ip_from", "trusted_addresses"):
        for at, text in enumerate(getattr(settings, name)):
            try:
                if text != "unix:" or name != "real_ip_from":
                    ip_network(text, strict=False)
            except ValueError as error:
                raise SettingsError(f"{name}[{at}]: {text!r} is no address or network") from error
