"""The resources that routing and balancing are made of, typed and checked (data-model.md sections 2 to 5).

A value is decoded by msgspec, normalised to one form (``uri`` becomes ``uris``, a map of nodes a list, ids
strings), and checked for what a type cannot say. Every complaint carries the JSON path of the place. Unknown
fields are accepted with a warning, so that a newer tool does not take routes away.
"""

import re
from collections.abc import Callable
from ipaddress import IPv6Address, ip_network
from typing import Any, Literal, TypeVar

import msgspec

from config_sync.errors import InvalidResource

METHODS = frozenset(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"])
_SCHEMES = frozenset(["http", "https", "grpc", "grpcs", "tcp", "tls", "udp", "kafka"])
_HASH_ON = frozenset(["vars", "header", "cookie", "consumer", "vars_combinations"])
_HOST = re.compile(r"\*|\*?[0-9a-zA-Z\-._\[\]:]+")
_LABEL = re.compile(r"\S{1,256}")
_ID = re.compile(r"[a-zA-Z0-9\-_.]{1,64}")
_PORT = re.compile(r"[0-9]{1,5}")
_HASH_VARS = frozenset(
    (
        *("uri", "request_uri", "query_string", "host", "hostname", "server_name", "server_addr"),
        *("remote_addr", "remote_port", "mqtt_client_id"),
    )
)

Id = str | None
R = TypeVar("R", bound=msgspec.Struct)


class Timeout(msgspec.Struct, frozen=True):
    """Seconds for the steps towards a peer; ``send`` and ``read`` are between two successive operations."""

    connect: float
    send: float
    read: float

    def __post_init__(self) -> None:
        """Refuse what would time out at once."""
        if min(self.connect, self.send, self.read) <= 0:
            raise ValueError("timeouts must be greater than 0")


class KeepalivePool(msgspec.Struct, frozen=True):
    """Limits of the idle connections to a peer, per worker."""

    size: int = 320
    idle_timeout: float = 60.0
    requests: int = 1000

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.size < 1 or self.requests < 1 or self.idle_timeout < 0:
            raise ValueError("size and requests must be at least 1, idle_timeout at least 0")


class Node(msgspec.Struct, frozen=True):
    """One address of an upstream."""

    host: str
    weight: int
    port: int | None = None
    priority: int = 0
    metadata: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.weight < 0:
            raise ValueError("weight must be at least 0")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError("port must be 1 to 65535")
        if not self.host:
            raise ValueError("host must not be empty")


class Upstream(msgspec.Struct, kw_only=True):
    """A set of peers and how to choose among them."""

    id: Id = None
    name: str | None = None
    desc: str | None = None
    labels: dict[str, Any] | None = None
    create_time: int | None = None
    update_time: int | None = None
    type: str = "roundrobin"
    nodes: tuple[Node, ...] | None = None
    service_name: str | None = None
    discovery_type: str | None = None
    discovery_args: dict[str, Any] | None = None
    scheme: str = "http"
    retries: int | None = None
    retry_timeout: float = 0.0
    timeout: Timeout | None = None
    hash_on: str = "vars"
    key: str | None = None
    checks: dict[str, Any] | None = None
    pass_host: Literal["pass", "node", "rewrite"] = "pass"
    upstream_host: str | None = None
    keepalive_pool: KeepalivePool | None = None
    tls: dict[str, Any] | None = None


class Service(msgspec.Struct, kw_only=True):
    """What several routes have in common."""

    id: Id = None
    name: str | None = None
    desc: str | None = None
    labels: dict[str, Any] | None = None
    create_time: int | None = None
    update_time: int | None = None
    plugins: dict[str, Any] = {}
    upstream: Upstream | None = None
    upstream_id: Id = None
    hosts: tuple[str, ...] = ()
    enable_websocket: bool | None = None
    script: str | None = None


class Route(msgspec.Struct, kw_only=True):
    """Which requests go where; ``uris`` and ``hosts`` are always filled, whichever form was written."""

    id: Id = None
    name: str | None = None
    desc: str | None = None
    labels: dict[str, Any] | None = None
    create_time: int | None = None
    update_time: int | None = None
    uri: str | None = None
    uris: tuple[str, ...] = ()
    host: str | None = None
    hosts: tuple[str, ...] = ()
    remote_addr: str | None = None
    remote_addrs: tuple[str, ...] = ()
    methods: frozenset[str] = frozenset()
    priority: int = 0
    vars: list[Any] = []
    filter_func: str | None = None
    plugins: dict[str, Any] = {}
    plugin_config_id: Id = None
    script: str | None = None
    script_id: Id = None
    upstream: Upstream | None = None
    upstream_id: Id = None
    service_id: Id = None
    timeout: Timeout | None = None
    enable_websocket: bool | None = None
    status: int = 1


def decode_route(id_: str, raw: bytes) -> tuple[Route, list[str]]:
    """Decode a value under ``routes/``.

    Returns:
        The route and warnings about fields that are not known.

    Raises:
        InvalidResource: with the JSON path of the first fault.
    """
    route, warnings = _decode(Route, raw, id_, _prepare_route)
    _check_route(route)
    return route, warnings


def decode_service(id_: str, raw: bytes) -> tuple[Service, list[str]]:
    """Decode a value under ``services/``; see ``decode_route``."""
    service, warnings = _decode(Service, raw, id_, _prepare_service)
    _check_description(service, "$")
    _refuse_lua(service.script, "$.script")
    service.hosts = _checked_hosts(service.hosts, "$.hosts")
    if service.upstream is not None:
        _check_upstream(service.upstream, "$.upstream")
    return service, warnings


def decode_upstream(id_: str, raw: bytes) -> tuple[Upstream, list[str]]:
    """Decode a value under ``upstreams/``; see ``decode_route``."""
    upstream, warnings = _decode(Upstream, raw, id_, _prepare_upstream)
    _check_upstream(upstream, "$")
    return upstream, warnings


Decoder = Callable[[str, bytes], tuple[Any, list[str]]]

DIRECTORIES: dict[str, Decoder | None] = {
    "routes": decode_route,
    "services": decode_service,
    "upstreams": decode_upstream,
    "consumers": None,
    "consumer_groups": None,
    "global_rules": None,
    "plugin_configs": None,
    "plugin_metadata": None,
    "plugins": None,
    "protos": None,
    "ssls": None,
    "stream_routes": None,
    "secrets": None,
    # Their names in APISIX 2.x; what consumes them reads these with lower precedence.
    "proto": None,
    "ssl": None,
}
"""The directories below the prefix; those without a decoder are kept raw until something consumes them."""


def decoders() -> dict[str, Decoder]:
    """Return the decoders of all directories."""
    return {directory: decode or _kept_raw for directory, decode in DIRECTORIES.items()}


def _kept_raw(_id: str, raw: bytes) -> tuple[Any, list[str]]:
    return raw, []


def _decode(kind: type[R], raw: bytes, id_: str, prepare: Callable[[dict[str, Any]], None]) -> tuple[R, list[str]]:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidResource("$", f"not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidResource("$", "nested too deeply") from error
    if not isinstance(value, dict):
        raise InvalidResource("$", "must be an object")
    known = set(kind.__struct_fields__)
    warnings = [f"$.{name}: unknown field, ignored" for name in value if name not in known]
    _refuse_null(value, "$")
    _read_ids(value)
    prepare(value)
    try:
        resource = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).rpartition(" - at `")
        raise InvalidResource(path.rstrip("`") if reason else "$", reason or str(error)) from error
    resource.id = id_  # type: ignore[attr-defined]
    return resource, warnings


def _check_description(resource: Route | Service | Upstream, path: str) -> None:
    """Check what people read and requests do not need."""
    if resource.name is not None and not 1 <= len(resource.name) <= 256:
        raise InvalidResource(f"{path}.name", "must have 1 to 256 characters")
    if resource.desc is not None and len(resource.desc) > 256:
        raise InvalidResource(f"{path}.desc", "must have at most 256 characters")
    for name, label in (resource.labels or {}).items():
        if not isinstance(label, str) or _LABEL.fullmatch(label) is None:
            raise InvalidResource(f"{path}.labels[{name!r}]", "must be 1 to 256 characters without white space")


def _refuse_null(value: dict[str, Any], path: str) -> None:
    for name, member in value.items():
        if member is None:
            raise InvalidResource(f"{path}.{name}", "must not be null; leave it out")


def _read_ids(value: dict[str, Any]) -> None:
    """Read integer ids as text: once in a key they are text anyway."""
    for name in ("id", "upstream_id", "service_id", "plugin_config_id", "script_id"):
        if name not in value:
            continue
        _whole_numbers(value, name)
        id_ = value[name]
        if isinstance(id_, int) and not isinstance(id_, bool) and id_ >= 1:
            value[name] = str(id_)
        elif not (isinstance(id_, str) and _ID.fullmatch(id_)):
            raise InvalidResource(f"$.{name}", "must be 1 to 64 of A-Z a-z 0-9 - _ . or an integer of at least 1")


def _empty_is(value: dict[str, Any], name: str, empty: Any) -> None:
    """Read ``{}`` as ``[]`` and the other way round: Lua cannot tell them apart."""
    if value.get(name) in ([], {}) and name in value:
        value[name] = empty


def _whole_numbers(value: dict[str, Any], *names: str) -> None:
    """Read ``1.0`` as 1 where an integer is due."""
    for name in names:
        number = value.get(name)
        if isinstance(number, float) and number.is_integer():
            value[name] = int(number)


def _prepare_route(value: dict[str, Any]) -> None:
    for name in ("uris", "hosts", "remote_addrs", "methods", "vars"):
        _empty_is(value, name, [])
    for name in ("plugins", "labels"):
        _empty_is(value, name, {})
    _whole_numbers(value, "priority", "status", "create_time", "update_time")
    for name in ("uri", "uris", "host", "hosts", "remote_addr", "remote_addrs"):
        if name in value and value[name] == []:
            raise InvalidResource(f"$.{name}", "must not be empty")
    if not any(name in value for name in ("plugins", "upstream", "upstream_id", "service_id", "script")):
        raise InvalidResource("$", "one of plugins, upstream, upstream_id and service_id is required")
    for one, several in (("uri", "uris"), ("host", "hosts"), ("remote_addr", "remote_addrs")):
        if one in value and several in value:
            raise InvalidResource(f"$.{several}", f"must not stand beside {one}")
    if "methods" in value and isinstance(value["methods"], list):
        _refuse_repeated(value["methods"], "$.methods")
    if isinstance(value.get("upstream"), dict):
        _refuse_null(value["upstream"], "$.upstream")
        _read_ids(value["upstream"])
        _prepare_upstream(value["upstream"], "$.upstream")


def _prepare_service(value: dict[str, Any]) -> None:
    _empty_is(value, "plugins", {})
    _empty_is(value, "labels", {})
    if value.get("hosts") in ([], {}) and "hosts" in value:
        raise InvalidResource("$.hosts", "must not be empty")
    if isinstance(value.get("upstream"), dict):
        _refuse_null(value["upstream"], "$.upstream")
        _read_ids(value["upstream"])
        _prepare_upstream(value["upstream"], "$.upstream")


def _prepare_upstream(value: dict[str, Any], path: str = "$") -> None:
    for name in ("labels", "discovery_args", "checks", "tls"):
        _empty_is(value, name, {})
    _whole_numbers(value, "retries", "create_time", "update_time")
    if isinstance(value.get("keepalive_pool"), dict):
        _whole_numbers(value["keepalive_pool"], "size", "requests")
    nodes = value.get("nodes")
    if isinstance(nodes, dict):
        value["nodes"] = [_node(address, weight, path) for address, weight in nodes.items()]
    elif isinstance(nodes, list):
        for node in nodes:
            if isinstance(node, dict):
                _whole_numbers(node, "weight", "port", "priority")
                if isinstance(node.get("host"), str):
                    node["host"] = _bracketed(node["host"])


def _node(address: str, weight: Any, path: str) -> dict[str, Any]:
    """Take apart a key of the object form: ``host``, ``host:port`` or ``[v6]:port``."""
    node: dict[str, Any] = {"weight": weight}
    _whole_numbers(node, "weight")
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]") or _bracketed(address) != address:
        node["host"] = _bracketed(address)
        return node
    if _PORT.fullmatch(port) is None or not 1 <= int(port) <= 65535:
        raise InvalidResource(f"{path}.nodes[{address!r}]", "port must be 1 to 65535")
    node["host"], node["port"] = host, int(port)
    return node


def _bracketed(host: str) -> str:
    return f"[{host}]" if _is_ipv6(host) else host


def _is_ipv6(text: str) -> bool:
    if text.count(":") < 2 or "%" in text:
        return False
    try:
        return IPv6Address(text) is not None
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    """Tell whether this is an address, or a network in CIDR form; Python would also take masks and zones."""
    _, slash, bits = text.partition("/")
    if "%" in text or (slash and not (bits.isascii() and bits.isdigit())):
        return False
    try:
        return ip_network(text, strict=False) is not None
    except ValueError:
        return False


def _check_route(route: Route) -> None:
    _check_description(route, "$")
    _refuse_lua(route.filter_func, "$.filter_func")
    _refuse_lua(route.script, "$.script")
    if route.uri is not None:
        route.uris = (route.uri,)
    if not route.uris:
        raise InvalidResource("$", "one of uri and uris is required")
    for uri in route.uris:
        if not 1 <= len(uri) <= 4096:
            raise InvalidResource("$.uri" if route.uri is not None else "$.uris", "must have 1 to 4096 characters")
    _refuse_repeated(route.uris, "$.uris")
    hosts_path = "$.host" if route.host is not None else "$.hosts"
    route.hosts = _checked_hosts((route.host,) if route.host is not None else route.hosts, hosts_path)
    if route.remote_addr is not None:
        route.remote_addrs = (route.remote_addr,)
    for address in route.remote_addrs:
        if not _is_network(address):
            path = "$.remote_addr" if route.remote_addr is not None else "$.remote_addrs"
            raise InvalidResource(path, f"{address!r} is no address or network")
    for member in route.vars:
        # Their meaning is checked where they are compiled.
        if not isinstance(member, list | str):
            raise InvalidResource("$.vars", "must be made of conditions and logical operators")
    unknown = route.methods - METHODS
    if unknown:
        raise InvalidResource("$.methods", f"unknown method {sorted(unknown)[0]}")
    if route.status not in (0, 1):
        raise InvalidResource("$.status", "must be 0 or 1")
    if route.upstream is not None:
        _check_upstream(route.upstream, "$.upstream")


def _check_upstream(upstream: Upstream, path: str) -> None:
    _check_description(upstream, path)
    discovered = upstream.service_name is not None and upstream.discovery_type is not None
    if (upstream.nodes is None) is not discovered:
        raise InvalidResource(path, "either nodes or service_name and discovery_type are required")
    if upstream.retries is not None and upstream.retries < 0:
        raise InvalidResource(f"{path}.retries", "must be at least 0")
    if upstream.retry_timeout < 0:
        raise InvalidResource(f"{path}.retry_timeout", "must be at least 0")
    if upstream.pass_host == "rewrite" and not upstream.upstream_host:
        raise InvalidResource(f"{path}.upstream_host", "must not be empty when pass_host is rewrite")
    if upstream.upstream_host is not None and _HOST.fullmatch(upstream.upstream_host) is None:
        raise InvalidResource(f"{path}.upstream_host", "is no host")
    for at, node in enumerate(upstream.nodes or ()):
        if not _is_node_host(node.host):
            raise InvalidResource(f"{path}.nodes[{at}].host", "is no host")
    if upstream.scheme not in _SCHEMES:
        raise InvalidResource(f"{path}.scheme", "is unknown")
    if upstream.service_name is not None and not 1 <= len(upstream.service_name) <= 256:
        raise InvalidResource(f"{path}.service_name", "must have 1 to 256 characters")
    if upstream.hash_on not in _HASH_ON:
        raise InvalidResource(f"{path}.hash_on", "is unknown")
    if upstream.type == "chash":
        _check_hash_key(upstream, path)
    if upstream.tls is not None:
        _check_client_certificate(upstream.tls, f"{path}.tls")


def _is_node_host(host: str) -> bool:
    if ":" in host or "[" in host or "]" in host:
        return host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1])
    return host.isascii() and not any(char <= " " or char in "/?#@" for char in host)


def _check_client_certificate(tls: dict[str, Any], path: str) -> None:
    if ("client_cert" in tls) is not ("client_key" in tls):
        raise InvalidResource(path, "client_cert and client_key belong together")
    if "client_cert_id" in tls and "client_cert" in tls:
        raise InvalidResource(path, "client_cert_id must not stand beside client_cert")


def _check_hash_key(upstream: Upstream, path: str) -> None:
    if upstream.hash_on == "consumer":
        return
    key = upstream.key
    if key is None:
        raise InvalidResource(f"{path}.key", "is required for chash")
    if upstream.hash_on == "vars" and key not in _HASH_VARS and re.fullmatch(r"arg_[0-9a-zA-Z_-]+", key) is None:
        raise InvalidResource(f"{path}.key", f"{key!r} is not a variable to hash on")
    if upstream.hash_on in ("header", "cookie") and re.fullmatch(r"[a-zA-Z0-9-_]+", key) is None:
        raise InvalidResource(f"{path}.key", "must be made of letters, digits, _ and -")


def _checked_hosts(hosts: tuple[str, ...], path: str) -> tuple[str, ...]:
    for host in hosts:
        if _HOST.fullmatch(host) is None:
            raise InvalidResource(path, f"{host!r} is no host pattern")
    _refuse_repeated(hosts, path)
    return tuple(dict.fromkeys(host.lower() for host in hosts))


def _refuse_repeated(values: tuple[str, ...] | list[Any], path: str) -> None:
    if len({str(value) for value in values}) != len(values):
        raise InvalidResource(path, "has the same entry twice")


def _refuse_lua(code: str | None, path: str) -> None:
    if code is not None:
        raise InvalidResource(path, "Lua is not supported; use vars or a plugin instead")
