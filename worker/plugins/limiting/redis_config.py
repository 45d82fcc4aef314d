"""How a Redis is reached that counts for several gateways: the fields that plugins which limit have in common."""

import importlib.util
from typing import Annotated, Any, Literal

import msgspec

from config_sync.errors import InvalidResource

Name = Annotated[str, msgspec.Meta(min_length=1)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1)]


class Address(msgspec.Struct, frozen=True):
    """Where a sentinel is."""

    host: Name
    port: Port


class RedisConfig(msgspec.Struct, kw_only=True):
    """One server, or a cluster."""

    policy: Literal["local", "redis", "redis-cluster"] = "local"
    allow_degradation: bool = False
    redis_host: Name | None = None
    redis_port: Port = 6379
    redis_username: Name | None = None
    redis_password: str | None = None
    redis_database: Annotated[int, msgspec.Meta(ge=0)] = 0
    redis_timeout: Milliseconds = 1000
    redis_ssl: bool = False
    redis_ssl_verify: bool = False
    redis_keepalive_timeout: Annotated[int, msgspec.Meta(ge=1000)] = 10_000
    redis_keepalive_pool: Annotated[int, msgspec.Meta(ge=1)] = 100
    redis_cluster_nodes: Annotated[list[Name], msgspec.Meta(min_length=1)] | None = None
    redis_cluster_name: Name | None = None
    redis_cluster_ssl: bool = False
    redis_cluster_ssl_verify: bool = False


class SentinelConfig(RedisConfig, kw_only=True):
    """One server, a cluster, or a server that sentinels name."""

    policy: Literal["local", "redis", "redis-cluster", "redis-sentinel"] = "local"  # type: ignore[assignment]
    redis_sentinels: Annotated[list[Address], msgspec.Meta(min_length=1)] | None = None
    redis_master_name: Name | None = None
    redis_role: Literal["master", "slave"] = "master"
    redis_connect_timeout: Milliseconds = 1000
    redis_read_timeout: Milliseconds = 1000
    sentinel_username: Name | None = None
    sentinel_password: str | None = None


_REQUIRED = {
    "redis": ("redis_host",),
    "redis-cluster": ("redis_cluster_nodes", "redis_cluster_name"),
    "redis-sentinel": ("redis_sentinels", "redis_master_name"),
}


def check_redis(config: Any) -> None:
    """Check that what the policy needs is given, and that the library is there; InvalidResource."""
    if config.policy == "local":
        return
    for name in _REQUIRED[config.policy]:
        if getattr(config, name) is None:
            raise InvalidResource("$", f"policy {config.policy} needs {name}")
    for at, node in enumerate((config.redis_cluster_nodes if config.policy == "redis-cluster" else None) or ()):
        try:
            address_of(node)
        except ValueError:
            raise InvalidResource(f"$.redis_cluster_nodes[{at}]", "must be host:port") from None
    if importlib.util.find_spec("redis") is None:
        raise InvalidResource("$.policy", f"{config.policy} needs a library: pip install propylon[redis]")


def address_of(node: str) -> tuple[str, int]:
    """Take ``host:port`` apart; ValueError when it is something else."""
    host, _, port = node.rpartition(":")
    if not host or not 1 <= int(port) <= 65535:
        raise ValueError(node)
    return host.strip("[]"), int(port)
