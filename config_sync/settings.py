"""The settings a process is started with; ``settings_file`` reads them, ``settings_check`` says what they may be."""

import os
import socket
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from config_sync.errors import SettingsError
from config_sync.settings_metrics import prometheus_settings


class TlsSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """TLS towards etcd; paths of PEM files."""

    cert: str = ""
    key: str = ""
    ca: str = ""
    verify: bool = True
    sni: str = ""


class GuardSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """When a reload that removes routes is held back; ``hold`` in seconds, 0: until it is confirmed."""

    max_removed_share: float = 0.5
    min_routes: int = 10
    hold: float = 0.0


class EncryptionSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How fields are encrypted in the store (data-model.md section 13)."""

    enable_encrypt_fields: bool = True
    keyring: tuple[str, ...] = ("qeddd145sfvddff3", "edd1c9f0985e76a2")

    def __repr__(self) -> str:
        """Show everything but the keys."""
        return f"EncryptionSettings(enable_encrypt_fields={self.enable_encrypt_fields}, {len(self.keyring)} keys)"


class ControlSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where the control interface listens; empty for nowhere."""

    listen: str = "127.0.0.1:9090"


class RouterSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How requests find their routes; ``verify_interval`` in seconds, 0: never."""

    http: Literal["radixtree_host_uri", "radixtree_uri", "radixtree_uri_with_parameter"] = "radixtree_host_uri"
    delete_uri_tail_slash: bool = False
    normalize_uri_like_servlet: bool = False
    match_uri_encoded_slash: bool = False
    verify_interval: float = 0.0


class YamlSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The file that ``config_provider: yaml`` reads."""

    path: str = "conf/apisix.yaml"


class EtcdSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where the configuration is kept; durations in seconds."""

    host: tuple[str, ...] = ("http://127.0.0.1:2379",)
    prefix: str = "/apisix"
    timeout: float = 30.0
    watch_timeout: float = 50.0
    resync_delay: float = 5.0
    health_check_timeout: float = 10.0
    startup_timeout: float = 5.0
    audit_interval: float = 45.0
    deep_audit_interval: float = 1200.0
    epoch_key: str = ""
    watch: Literal["worker", "node"] = "worker"
    user: str = ""
    password: str = ""
    tls: TlsSettings = TlsSettings()

    def __repr__(self) -> str:
        """Show everything but the password."""
        return f"EtcdSettings(host={self.host!r}, prefix={self.prefix!r}, user={self.user!r})"


class PluginSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Which plugins there are: ``path``, a directory of modules; ``enabled``, their names, none: all.

    ``listed_only``: only those in the key ``plugins`` of the configuration, once there is one. ``on_failure``: whether
    a request fails with 500 when a plugin raises an exception, or the plugin is passed over; ``failure_budget``: after
    how many exceptions within ``failure_window`` seconds it is passed over for as long anyway, 0: never;
    ``hook_timeout``: seconds that a hook may wait for something, 0: any time.
    """

    path: str = ""
    enabled: tuple[str, ...] = ()
    listed_only: bool = False
    on_failure: Literal["fail", "bypass"] = "fail"
    failure_budget: int = 0
    failure_window: float = 60.0
    hook_timeout: float = 120.0


class CacheZone(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where ``proxy-cache`` keeps answers: with ``disk_path`` on disk, otherwise in memory; sizes in bytes."""

    name: str
    memory_size: int = 50 * 1024 * 1024
    disk_size: int = 0
    disk_path: str = ""
    cache_levels: str = "1:2"


class ProxyCacheSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What ``proxy-cache`` keeps answers in, and how many seconds on disk those that do not say."""

    cache_ttl: float = 10.0
    zones: tuple[CacheZone, ...] = (
        CacheZone(name="disk_cache_one", disk_size=1024**3, disk_path="disk_cache_one"),
        CacheZone(name="memory_cache"),
    )


class SslSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """TLS; ``ssl_trusted_certificate`` is the path of a PEM file of authorities, or ``system``."""

    ssl_trusted_certificate: str = "system"


class ReloadSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How new workers take over from old ones; durations in seconds."""

    mode: Literal["slot", "all"] = "slot"
    grace: float = 2.0
    drain_wait: float = 5.0
    check_timeout: float = 30.0


class DnsDiscoverySettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Discovery by DNS; no servers: those of resolv.conf."""

    servers: tuple[str, ...] = ()
    order: tuple[str, ...] = ("last", "SRV", "A", "AAAA", "CNAME")


class DiscoverySettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The discoveries that ``discovery_type`` may name; those without a section are not enabled."""

    dns: DnsDiscoverySettings | None = None


class Address(NamedTuple):
    """An address to listen on."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        """The family its sockets are of."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def __str__(self) -> str:
        """Write it as in the settings."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Settings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """All settings; ``conf/config.yaml`` tells what each means."""

    worker_processes: int | Literal["auto"] = "auto"
    listen: tuple[str, ...] = ("0.0.0.0:9080",)
    backlog: int = 511
    pid: str = "propylon.pid"
    runtime_dir: str = "run"
    user: str = ""
    error_log: str = "stderr"
    log_level: Literal["debug", "info", "notice", "warn", "error", "crit"] = "info"
    access_log: str | Literal[False] = "access.log"
    access_log_format: Literal["combined", "json"] = "combined"
    keepalive_timeout: float = 75.0
    keepalive_min: float = 1.0
    close_spread: float = 3.0
    client_header_timeout: float = 60.0
    client_body_timeout: float = 60.0
    send_timeout: float = 60.0
    client_max_body_size: int = 0
    client_body_buffer_size: int = 65_536
    client_body_temp_path: str = ""
    large_client_header_buffers: int = 32_768
    real_ip_header: str = "X-Real-IP"
    real_ip_from: tuple[str, ...] = ("127.0.0.1", "unix:")
    real_ip_recursive: bool = False
    trusted_addresses: tuple[str, ...] = ()
    max_post_args_readable_size: int = 1_048_576
    worker_connections: int = 16_384
    worker_shutdown_timeout: float = 240.0
    worker_startup_timeout: float = 60.0
    worker_heartbeat_timeout: float = 30.0
    reload: ReloadSettings = ReloadSettings()
    max_generations: int = 3
    max_worker_rss: int = 0
    max_worker_requests: int = 0
    on_master_death: Literal["drain", "serve"] = "drain"
    dns_resolver: tuple[str, ...] = ()
    dns_resolver_valid: float = 0.0
    resolver_timeout: float = 5.0
    enable_ipv6: bool = True
    enable_resolv_search_opt: bool = True
    ssl: SslSettings = SslSettings()
    discovery: DiscoverySettings = DiscoverySettings()
    control: ControlSettings = ControlSettings()
    router: RouterSettings = RouterSettings()
    config_provider: Literal["etcd", "yaml"] = "etcd"
    etcd: EtcdSettings = EtcdSettings()
    yaml: YamlSettings = YamlSettings()
    snapshot: str | Literal[False] = "config.snapshot"
    guard: GuardSettings = GuardSettings()
    data_encryption: EncryptionSettings = EncryptionSettings()
    disable_upstream_healthcheck: bool = False
    plugins: PluginSettings = PluginSettings()
    proxy_cache: ProxyCacheSettings = ProxyCacheSettings()
    plugin_attr: Mapping[str, Any] = msgspec.field(default_factory=dict)

    def addresses(self) -> list[Address]:
        """Return the addresses to listen on."""
        return [parse_address(text) for text in self.listen]

    def worker_count(self) -> int:
        """Return the number of workers; ``auto`` is what affinity and CPU quota leave us."""
        return available_cpus() if self.worker_processes == "auto" else self.worker_processes

    def path(self, name: str) -> Path:
        """Return a path that a setting names relative to ``runtime_dir``."""
        return Path(self.runtime_dir) / name

    def access_log_path(self) -> Path | None:
        """Return where requests are logged; None for nowhere."""
        return None if self.access_log in (False, "off") else self.path(str(self.access_log))

    def snapshot_path(self) -> Path | None:
        """Return where the last good configuration is kept; None for nowhere."""
        return None if self.snapshot in (False, "off") else self.path(str(self.snapshot))

    def store_identity(self) -> int:
        """Return a number, of 63 bits, that tells where the configuration comes from; revisions count for it alone."""
        if self.config_provider == "yaml":
            names = [self.config_provider, str(Path(self.yaml.path).absolute())]
        else:
            names = [self.config_provider, self.etcd.prefix, *sorted(self.etcd.host)]
        return int.from_bytes(blake2b("\0".join(names).encode(), digest_size=8).digest(), "big") >> 1

    def body_temp_path(self) -> Path:
        """Return the directory of the files that large request bodies are kept in."""
        return self.path(self.client_body_temp_path)

    def metrics_address(self) -> Address | None:
        """Return where metrics are served; None for nowhere."""
        prometheus = prometheus_settings(self.plugin_attr)
        if not prometheus.enable_export_server:
            return None
        host, port = prometheus.export_addr.ip, prometheus.export_addr.port
        return parse_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def api_addresses(self) -> list[Address]:
        """Return the addresses that all workers serve from one socket: of the control interface, and of metrics."""
        return [address for address in (self.control_address(), self.metrics_address()) if address is not None]

    def is_optional(self, address: Address) -> bool:
        """Tell whether an address that cannot be had is done without: the one for metrics that nobody has chosen."""
        chosen = self.plugin_attr.get("prometheus") or {}
        return address == self.metrics_address() and "export_addr" not in chosen

    def key_of(self, address: Address) -> str:
        """Return where in the settings an address stands that all workers serve from one socket."""
        return "control.listen" if address == self.control_address() else "plugin_attr.prometheus.export_addr"

    def control_address(self) -> Address | None:
        """Return where the control interface listens; None for nowhere."""
        return parse_address(self.control.listen) if self.control.listen else None

    def error_log_path(self) -> Path | None:
        """Return where errors are logged; None for standard error."""
        return None if self.error_log == "stderr" else self.path(self.error_log)


def parse_address(text: str) -> Address:
    """Read ``host:port``, ``[v6]:port`` or a port alone.

    Raises:
        SettingsError: it is none of these.
    """
    host, colon, port = text.rpartition(":")
    host = (host if colon else "0.0.0.0").removeprefix("[").removesuffix("]")  # noqa: S104 - a port alone means all
    if not port.isdigit() or int(port) > 65535 or (":" in host and not text.startswith("[")):
        raise SettingsError(f"{text!r} is no address; write host:port or [ipv6]:port")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        if host != "localhost":
            raise SettingsError(f"{text!r}: the host must be an IP address") from None
        host = "127.0.0.1"
    return Address(host, int(port))


def available_cpus() -> int:
    """Count the CPUs this process may use: its affinity, bounded by the cgroup's quota, at least 1."""
    count = len(os.sched_getaffinity(0))
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(count, int(quota))) if quota is not None else count


def _cgroup_quota(root: Path) -> float | None:
    for name, period_name in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = (root / name).read_text().split()
            if period_name is not None:
                words += (root / period_name).read_text().split()
            quota, period = words[:2]
            return None if quota in ("max", "-1") else max(1.0, int(quota) / int(period))
        except (OSError, ValueError):
            continue
    return None


def parse_server(text: str) -> tuple[str, int]:
    """Read the address of a DNS server: ``address``, ``address:port`` or ``[v6]:port``; the port is 53 by default.

    Raises:
        SettingsError: it is none of these; a server cannot be given by name.
    """
    host, port = text, "53"
    if text.count(":") == 1 or "]:" in text:
        host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in bare else socket.AF_INET, bare)
    except OSError:
        port = ""
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise SettingsError(f"{text!r} is no IP address with or without a port")
    return bare, int(port)
