"""What consistent hashing hashes of an exchange: ``hash_on`` and ``key`` (upstreams.md section 3)."""

import logging
import re
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from config_sync import schema
    from worker.exchange import Exchange
    from worker.messages import Request

log = logging.getLogger("propylon.upstream")

Lookup = Callable[["Exchange"], bytes | None]

_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([0-9a-zA-Z_]+))")


def hash_key(id_: str, config: "schema.Upstream") -> "Callable[[Exchange], bytes]":
    """Compile what an upstream hashes on; an exchange that has no such value is known by its client's address."""
    lookup = _lookup(config)
    warned = False

    def key(exchange: "Exchange") -> bytes:
        nonlocal warned
        value = lookup(exchange)
        if value is None:
            if not warned:
                warned = True
                log.warning(
                    "upstream %s: a request has no %s %s to hash on; remote_addr is taken for such requests",
                    *(id_, config.hash_on, config.key or "name"),
                )
            return remote_address(exchange)
        return value

    return key


def _lookup(config: "schema.Upstream") -> Lookup:
    key = config.key or ""
    if config.hash_on == "header":
        return _header(key.encode())
    if config.hash_on == "cookie":
        return _cookie(key.encode())
    if config.hash_on == "consumer":
        return lambda exchange: None
    if config.hash_on == "vars_combinations":
        return _combination(key)
    return _variable(key)


def remote_address(exchange: "Exchange") -> bytes:
    """Return the client's address."""
    return exchange.downstream.remote_address.encode()


def _of(read: "Callable[[Request], bytes | None]") -> Lookup:
    def lookup(exchange: "Exchange") -> bytes | None:
        return read(exchange.request) if exchange.request is not None else None

    return lookup


def _header(name: bytes) -> Lookup:
    return _of(lambda request: request.header(name))


def _cookie(name: bytes) -> Lookup:
    pattern = re.compile(rb"(?:^|[;,])\s*" + re.escape(name) + rb"=([^;,]*)")

    def cookie(request: "Request") -> bytes | None:
        found = pattern.search(request.header(b"Cookie") or b"")
        return found[1].strip() if found is not None else None

    return _of(cookie)


def _argument(name: bytes) -> Lookup:
    def argument(request: "Request") -> bytes | None:
        for pair in (_query(request) or b"").split(b"&"):
            given, _, value = pair.partition(b"=")
            if unquote_to_bytes(given.replace(b"+", b" ")) == name:
                return unquote_to_bytes(value.replace(b"+", b" "))
        return None

    return _of(argument)


def _query(request: "Request") -> bytes | None:
    _, mark, query = request.target.partition(b"?")
    return query if mark else None


def _uri(request: "Request") -> bytes:
    return request.path


def _request_uri(request: "Request") -> bytes:
    return request.target


def _host(request: "Request") -> bytes:
    return request.host_name


def _remote_port(exchange: "Exchange") -> bytes:
    return b"%d" % exchange.downstream.remote_port


def _server_address(exchange: "Exchange") -> bytes | None:
    local: tuple[str, int] | None = exchange.downstream.transport.get_extra_info("sockname")
    return local[0].encode() if local else None


_VARIABLES: dict[str, Lookup] = {
    "uri": _of(_uri),
    "request_uri": _of(_request_uri),
    "query_string": _of(_query),
    "host": _of(_host),
    "hostname": lambda exchange: socket.gethostname().encode(),
    "server_name": lambda exchange: b"_",
    "server_addr": _server_address,
    "remote_addr": remote_address,
    "remote_port": _remote_port,
}


def _variable(name: str) -> Lookup:
    for prefix, make in (("arg_", _argument), ("http_", _header), ("cookie_", _cookie)):
        if name.startswith(prefix):
            bare = name.removeprefix(prefix)
            return make((bare.replace("_", "-") if make is _header else bare).encode())
    return _VARIABLES.get(name, lambda exchange: None)


def _combination(template: str) -> Lookup:
    """Compile a text with variables; without the value of any of them there is none."""
    parts = _VARIABLE.split(template)
    literals = [part.encode() for part in parts[::3]]
    lookups = [_variable(braced or plain) for braced, plain in zip(parts[1::3], parts[2::3], strict=True)]

    def combine(exchange: "Exchange") -> bytes | None:
        values = [lookup(exchange) for lookup in lookups]
        if not any(value is not None for value in values):
            return None
        joined = [literals[0]]
        for value, literal in zip(values, literals[1:], strict=True):
            joined += (value or b"", literal)
        return b"".join(joined)

    return combine
