"""Upstreams: sets of peers, how to choose among them, how to see which are well (data-model.md section 5)."""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema.decoding import Context, Kind
from config_sync.schema.fields import (
    CERTIFICATE_LENGTH,
    HOST,
    KEY_LENGTH,
    AtLeastZero,
    Count,
    CountFromOne,
    Id,
    Name,
    NamedResource,
    Port,
    Timeout,
    check_labels,
    check_pem,
    is_ipv6,
    shown,
)
from config_sync.secrets import is_reference

# A name or an IPv4 address; names may hold what resolvers take, such as "_".
_NODE_HOST = re.compile(r"[^\x00-\x20/?#@:\[\]\x7f-\U0010ffff]+")
_PORT = re.compile(r"[0-9]{1,5}")
_HASH_VARIABLES = frozenset(
    (
        *("uri", "request_uri", "query_string", "host", "hostname", "server_name", "server_addr"),
        *("remote_addr", "remote_port", "mqtt_client_id"),
    )
)
_HASH_ARGUMENT = re.compile(r"arg_[0-9a-zA-Z_-]+")
_HASH_FIELD = re.compile(r"[a-zA-Z0-9-_]+")
_LONGEST_ADDRESS = 320  # characters; what is remembered must not be long

Statuses = tuple[Annotated[int, Meta(ge=200, le=599)], ...]
Limit = Annotated[int, Meta(ge=1, le=254)]
LimitOrNone = Annotated[int, Meta(ge=0, le=254)]  # 0: not counted
CheckType = Literal["http", "https", "tcp"]


class KeepalivePool(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Limits of the idle connections to a peer, per worker; ``idle_timeout`` in seconds."""

    size: CountFromOne = 320
    idle_timeout: AtLeastZero = 60.0
    requests: CountFromOne = 1000


class Queue(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """How many requests of a worker may wait for a node below ``max_conns``, and how long; ``timeout`` in seconds."""

    size: Count = 100
    timeout: Annotated[float, Meta(gt=0)] = 60.0


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One address of an upstream; an IPv6 address stands in brackets, and ``max_conns`` replaces the upstream's."""

    host: str
    weight: Count
    port: Port | None = None
    priority: int = 0
    metadata: dict[str, Any] | None = None
    max_conns: Count | None = None


class ActiveHealthy(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """How peers that are well are probed; ``interval`` in seconds (upstreams.md section 8)."""

    interval: CountFromOne = 1
    http_statuses: Statuses = (200, 302)
    successes: Limit = 2


class ActiveUnhealthy(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """How peers that are not well are probed; ``interval`` in seconds."""

    interval: CountFromOne = 1
    http_statuses: Statuses = (429, 404, 500, 501, 502, 503, 504, 505)
    http_failures: Limit = 5
    tcp_failures: Limit = 2
    timeouts: Limit = 3


class ActiveChecks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Probes; ``timeout`` in seconds.

    APISIX does not probe peers in a state whose object is absent; here it means the defaults, so that a peer that went
    down comes back.
    """

    type: CheckType = "http"
    timeout: AtLeastZero = 1.0
    concurrency: CountFromOne = 10
    host: str | None = None
    port: Port | None = None
    http_path: str = "/"
    http_method: str = "GET"
    http_req_body: str = ""
    req_headers: tuple[str, ...] = ()
    https_verify_certificate: bool = True
    healthy: ActiveHealthy = ActiveHealthy()
    unhealthy: ActiveUnhealthy = ActiveUnhealthy()


class PassiveHealthy(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Which answers to clients show that a peer is well; a limit of 0 is not counted."""

    http_statuses: Statuses = (*range(200, 209), 226, *range(300, 309))
    successes: LimitOrNone = 5


class PassiveUnhealthy(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Which answers to clients show that a peer is not well; a limit of 0 is not counted."""

    http_statuses: Statuses = (429, 500, 503)
    http_failures: LimitOrNone = 5
    tcp_failures: LimitOrNone = 2
    timeouts: LimitOrNone = 7


class PassiveChecks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is learnt from requests."""

    type: CheckType = "http"
    healthy: PassiveHealthy = PassiveHealthy()
    unhealthy: PassiveUnhealthy = PassiveUnhealthy()


class HealthChecks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Health checks. A peer that passive ones alone had found ill could never come back: active ones are required."""

    active: ActiveChecks
    passive: PassiveChecks | None = None


class UpstreamTls(msgspec.Struct, forbid_unknown_fields=True):
    """The client certificate shown to peers: that of an ssl resource, or one written here."""

    client_cert_id: Id = None
    client_cert: str | None = None
    client_key: str | None = None
    verify: bool = False


if TYPE_CHECKING:
    Nodes = tuple[Node, ...]
else:
    # The map of addresses to weights is read too; ``check_upstream`` makes a tuple of it.
    Nodes = tuple[Node, ...] | dict[str, Any]


class Upstream(NamedResource, kw_only=True, forbid_unknown_fields=True):
    """A set of peers and how to choose among them; ``retry_timeout`` in seconds.

    ``max_conns`` is how many requests of a worker may be under way to each node; 0: unlimited. It and ``queue`` are not
    APISIX's.
    """

    type: str = "roundrobin"
    nodes: Nodes | None = None
    service_name: Name = None
    discovery_type: str | None = None
    discovery_args: dict[str, Any] | None = None
    scheme: Literal["http", "https", "grpc", "grpcs", "tcp", "tls", "udp", "kafka"] = "http"
    retries: Count | None = None
    retry_timeout: AtLeastZero = 0.0
    timeout: Timeout | None = None
    hash_on: Literal["vars", "header", "cookie", "consumer", "vars_combinations"] = "vars"
    key: str | None = None
    checks: HealthChecks | None = None
    pass_host: Literal["pass", "node", "rewrite"] = "pass"
    upstream_host: str | None = None
    keepalive_pool: KeepalivePool | None = None
    max_conns: Count = 0
    queue: Queue | None = None
    tls: UpstreamTls | None = None


def check_upstream(upstream: Upstream, path: str, context: Context) -> None:
    """Check what types cannot say; nodes become a tuple, an encrypted key becomes plain."""
    check_labels(upstream.labels, path)
    discovered = upstream.service_name is not None and upstream.discovery_type is not None
    if (upstream.nodes is None) is not discovered:
        raise InvalidResource(path, "either nodes, or service_name and discovery_type are required")
    if upstream.nodes is not None:
        upstream.nodes = _checked_nodes(upstream.nodes, f"{path}.nodes")
    if upstream.pass_host == "rewrite" and not upstream.upstream_host:
        raise InvalidResource(f"{path}.upstream_host", "must not be empty when pass_host is rewrite")
    if upstream.upstream_host and HOST.fullmatch(upstream.upstream_host) is None:
        raise InvalidResource(f"{path}.upstream_host", "is no host")
    if upstream.type == "chash":
        _check_hash_key(upstream, path)
    if upstream.checks is not None:
        host = upstream.checks.active.host
        if host is not None and HOST.fullmatch(host) is None:
            raise InvalidResource(f"{path}.checks.active.host", "is no host")
    if upstream.tls is not None:
        _check_client_certificate(upstream.tls, f"{path}.tls", context)


def _checked_nodes(nodes: "tuple[Node, ...] | dict[str, Any]", path: str) -> tuple[Node, ...]:
    if isinstance(nodes, dict):
        return tuple([_node_of(address, weight, path) for address, weight in nodes.items()])
    for at, node in enumerate(nodes):
        if _node_host(node.host, f"{path}[{at}].host") != node.host:
            return tuple(msgspec.structs.replace(node, host=_bracketed(node.host)) for node in nodes)
    return nodes


def _node_of(address: str, weight: Any, path: str) -> Node:
    if isinstance(weight, float) and weight.is_integer():
        weight = int(weight)
    reason = "weight must be an integer of at least 0"
    if type(weight) is int and weight >= 0:
        try:
            if len(address) <= _LONGEST_ADDRESS:
                return _node(address, weight)
            reason = f"must have at most {_LONGEST_ADDRESS} characters"
        except ValueError as error:
            reason = str(error)
    raise InvalidResource(f"{path}[{shown(address)}]", reason)


@lru_cache(maxsize=8192)
def _node(address: str, weight: int) -> Node:
    """Make a node of ``host``, ``host:port`` or ``[v6]:port``; many routes share the same few, and then the object."""
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]") or is_ipv6(address):
        return Node(_valid_host(address), weight)
    if _PORT.fullmatch(port) is None or not 1 <= int(port) <= 65535:
        raise ValueError("port must be 1 to 65535")
    return Node(_valid_host(host), weight, int(port))


def _node_host(host: str, path: str) -> str:
    try:
        return _valid_host(host)
    except ValueError as error:
        raise InvalidResource(path, str(error)) from None


def _valid_host(host: str) -> str:
    """Return a host with brackets around an IPv6 address; ValueError if it is none."""
    host = _bracketed(host)
    if ":" in host or "[" in host or "]" in host:
        is_valid = host.startswith("[") and host.endswith("]") and is_ipv6(host[1:-1])
    else:
        is_valid = _NODE_HOST.fullmatch(host) is not None
    if not is_valid:
        raise ValueError("is no host")
    return host


def _bracketed(host: str) -> str:
    return f"[{host}]" if is_ipv6(host) else host


def _check_hash_key(upstream: Upstream, path: str) -> None:
    if upstream.hash_on == "consumer":
        return
    key = upstream.key
    if key is None:
        raise InvalidResource(f"{path}.key", "is required for chash")
    if upstream.hash_on == "vars" and key not in _HASH_VARIABLES and _HASH_ARGUMENT.fullmatch(key) is None:
        raise InvalidResource(f"{path}.key", f"{shown(key)} is not a variable to hash on")
    if upstream.hash_on in ("header", "cookie") and _HASH_FIELD.fullmatch(key) is None:
        raise InvalidResource(f"{path}.key", "must be made of letters, digits, _ and -")


def _check_client_certificate(tls: UpstreamTls, path: str, context: Context) -> None:
    if (tls.client_cert is None) is not (tls.client_key is None):
        raise InvalidResource(path, "client_cert and client_key belong together")
    if tls.client_cert_id is not None and tls.client_cert is not None:
        raise InvalidResource(path, "client_cert_id must not stand beside client_cert")
    if tls.client_key is not None:
        check_pem(tls.client_cert, CERTIFICATE_LENGTH, f"{path}.client_cert")
        tls.client_key = plain_key(tls.client_key, f"{path}.client_key", context)


def plain_key(key: str, path: str, context: Context) -> str:
    """Return a certificate's key in PEM form, or the reference to it; without a keyring it stays as it is.

    Raises:
        InvalidResource: when none of the keyring's keys decrypts it, or its length is none of a key.
    """
    if context.keyring is not None and "-----BEGIN" not in key and not is_reference(key):
        key = context.keyring.decrypt(key)
        if "-----BEGIN" not in key:
            raise InvalidResource(path, "is neither PEM nor encrypted with a key of data_encryption.keyring")
    check_pem(key, KEY_LENGTH, path)
    return key


def _check(upstream: Upstream, context: Context) -> None:
    check_upstream(upstream, "$", context)


_UPSTREAM = Kind(Upstream, _check)


def decode_upstream(id_: str, raw: bytes, keyring: Keyring | None = None) -> tuple[Upstream, list[str]]:
    """Decode a value under ``upstreams/``; see ``Kind.decode``."""
    return _UPSTREAM.decode(id_, raw, keyring)
