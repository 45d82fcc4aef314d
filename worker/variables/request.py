"""Variables of the request and of the client."""

import os
import re
import secrets
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

from worker.variables.memo import memo_of
from worker.variables.values import Accessor, Value, text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.messages import Request

HOSTNAME = socket.gethostname()
SERVER_NAME = "_"  # what APISIX's nginx configuration calls its only server


def decoded(text: str) -> str:
    """Decode a name or value of a query or form; broken escapes stay as they are."""
    if "+" in text:
        text = text.replace("+", " ")
    return unquote(text, errors="surrogateescape") if "%" in text else text


def parse_arguments(query: str) -> dict[str, Value]:
    """Read a query or form: the first value of each name, True for a name without ``=``."""
    found: dict[str, Value] = {}
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if part:
            found.setdefault(decoded(name), decoded(value) if equals else True)
    return found


def parse_cookies(header: str) -> dict[str, str]:
    """Read a Cookie header; values stay as they were sent."""
    parts = (part.partition("=") for part in header.split(";"))
    return {name.strip(" \t"): value.strip(" \t") for name, equals, value in parts if equals}


def query_of(request: "Request") -> str:
    """Return the query of a request, without the question mark."""
    return text_of(request.target.partition(b"?")[2].partition(b"#")[0])


def arguments_of(request: "Request") -> dict[str, Value]:
    """Return the parsed query, kept with the head."""
    found = request.arguments
    if found is None:
        query = query_of(request)
        found = request.arguments = parse_arguments(query) if query else {}
    return found


def argument(name: str) -> Accessor:
    """Make the function for ``arg_<name>``."""

    def argument_value(exchange: "Exchange") -> Value | None:
        request = exchange.request
        if request is None:
            return None
        found = request.arguments
        return (found if found is not None else arguments_of(request)).get(name)

    return argument_value


def cookie(name: str) -> Accessor:
    """Make the function for ``cookie_<name>``."""

    def cookie_value(exchange: "Exchange") -> str | None:
        request = exchange.request
        if request is None:
            return None
        found = request.cookies
        if found is None:
            found = request.cookies = parse_cookies(_all_cookies(exchange) or "")
        return found.get(name)

    return cookie_value


def field_pattern(name: str) -> re.Pattern[bytes]:
    """Compile what finds a field's value in a block of lines; ``_`` in the name stands for ``-``, too."""
    escaped = "[-_]".join(map(re.escape, name.lower().replace("-", "_").split("_")))
    return re.compile(rb"(?i)\n" + escaped.encode("utf-8", "surrogateescape") + rb":[ \t]*([^\r]*)")


def header(name: str) -> Accessor:
    """Make the function for ``http_<name>``."""
    canonical = name.lower().replace("-", "_")
    if canonical == "cookie":
        return _all_cookies
    if canonical in ("x_forwarded_proto", "x_forwarded_host", "x_forwarded_port", "forwarded", "x_forwarded_for"):
        return _forwarded(canonical)
    find = field_pattern(name).findall

    def header_value(exchange: "Exchange") -> str | None:
        values = find(exchange.request.block) if exchange.request is not None else None
        if not values:
            return None
        return text_of((values[0] if len(values) == 1 else b", ".join(map(bytes.rstrip, values))).rstrip(b" \t"))

    return header_value


def _forwarded(canonical: str) -> Accessor:
    """Make the function for a field that is replaced or dropped before routes are matched (upstreams.md 6)."""
    find = field_pattern(canonical).findall
    is_client_chain = canonical == "x_forwarded_for"  # what goes upstream has one address more

    def forwarded_value(exchange: "Exchange") -> str | None:
        request = exchange.request
        if request is None:
            return None
        if is_client_chain:
            values = find(request.block) if exchange.downstream.keeps_forwarded_for else None
        else:
            values = find(b"\n" + request.upstream_fields)
        return text_of(b", ".join(values).rstrip(b" \t")) if values else None

    return forwarded_value


_find_cookies = field_pattern("cookie").findall


def _all_cookies(exchange: "Exchange") -> str | None:
    values = _find_cookies(exchange.request.block) if exchange.request is not None else None
    return text_of(b"; ".join(value.rstrip(b" \t") for value in values)) if values else None


def capture(name: str) -> Accessor:
    """Make the function for ``uri_param_<name>``."""

    def capture_value(exchange: "Exchange") -> str | None:
        captures = exchange.captures
        return captures.get(name) if captures is not None else None

    return capture_value


def uri(exchange: "Exchange") -> str | None:
    """Return the normalised path."""
    return text_of(exchange.request.path) if exchange.request is not None else None


def request_uri(exchange: "Exchange") -> str | None:
    """Return the normalised path with the query."""
    request = exchange.request
    if request is None:
        return None
    path = text_of(request.path)
    return f"{path}?{query_of(request)}" if b"?" in request.target else path


def real_request_uri(exchange: "Exchange") -> str | None:
    """Return the target as it came, and goes on."""
    return text_of(exchange.request.target) if exchange.request is not None else None


def arguments(exchange: "Exchange") -> str | None:
    """Return the query."""
    request = exchange.request
    return query_of(request) if request is not None and b"?" in request.target else None


def question_mark(exchange: "Exchange") -> str:
    """Return what stands before the query: nothing when there is none."""
    return "?" if arguments(exchange) else ""


def method(exchange: "Exchange") -> str | None:
    """Return the method."""
    return text_of(exchange.request.method) if exchange.request is not None else None


def host(exchange: "Exchange") -> str | None:
    """Return the host, in lower case and without port; the server's name when the client sent none."""
    return (text_of(exchange.request.host_name) or SERVER_NAME) if exchange.request is not None else None


def server_protocol(exchange: "Exchange") -> str | None:
    """Return the protocol of the request."""
    request = exchange.request
    return ("HTTP/1.1" if request.version_11 else "HTTP/1.0") if request is not None else None


def scheme(exchange: "Exchange") -> str:
    """Return http or https, as the client is connected."""
    return exchange.downstream.scheme


def https(exchange: "Exchange") -> str:
    """Return ``on`` with TLS, and nothing without."""
    return "on" if exchange.downstream.scheme == "https" else ""


def server_address(exchange: "Exchange") -> str:
    """Return the address that the client is connected to."""
    return exchange.downstream.local_address


def server_port(exchange: "Exchange") -> str:
    """Return the port that the client is connected to."""
    return str(exchange.downstream.local_port)


def remote_address(exchange: "Exchange") -> str:
    """Return the client's address, after ``real_ip_header`` and real-ip."""
    run = exchange.run  # as Exchange.remote_address, without one call
    return exchange.downstream.remote_address if run is None or run.client is None else run.client[0]


def remote_port(exchange: "Exchange") -> str:
    """Return the client's port, after ``real_ip_header`` and real-ip: nothing when they name none."""
    return str(exchange.remote_port or "")


def peer_address(exchange: "Exchange") -> str:
    """Return the address at the other end of the connection."""
    return exchange.downstream.peer_address


def peer_port(exchange: "Exchange") -> str:
    """Return the port at the other end of the connection."""
    return str(exchange.downstream.peer_port)


def request_length(exchange: "Exchange") -> str | None:
    """Return the bytes of the head, and of a body whose length is known."""
    request = exchange.request
    if request is None:
        return None
    line = len(request.method) + len(request.target) + len("  HTTP/1.1")
    body = len(exchange.buffered_body) if exchange.buffered_body is not None else request.content_length
    return str(line + len(request.block) + body)


def request_id(exchange: "Exchange") -> str:
    """Return 32 random hexadecimal digits, the same for the whole exchange."""
    memo = memo_of(exchange)
    if not memo.request_id:
        memo.request_id = secrets.token_hex(16)
    return memo.request_id


def request_time(exchange: "Exchange") -> str:
    """Return the seconds since the head was read."""
    return f"{max(0.0, exchange.downstream.context.time() - exchange.started):.3f}"


def connection_number(exchange: "Exchange") -> str:
    """Return which of its worker's connections this is."""
    return str(exchange.downstream.number)


def connection_requests(exchange: "Exchange") -> str:
    """Return which of its connection's requests this is."""
    return str(exchange.downstream.requests + 1)


def msec(_: "Exchange") -> str:
    """Return the seconds since 1970, to milliseconds."""
    return f"{time.time():.3f}"


def time_iso8601(_: "Exchange") -> str:
    """Return the local time as ISO 8601 writes it."""
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return f"{now[:-2]}:{now[-2:]}"


def time_local(_: "Exchange") -> str:
    """Return the local time as the common log format writes it."""
    return time.strftime("%d/%b/%Y:%H:%M:%S %z")


def pid(_: "Exchange") -> str:
    """Return the id of the worker's process."""
    return str(os.getpid())


NAMES: dict[str, Accessor] = {
    "args": arguments,
    "connection": connection_number,
    "connection_requests": connection_requests,
    "content_length": header("content_length"),
    "content_type": header("content_type"),
    "host": host,
    "hostname": lambda _: HOSTNAME,
    "https": https,
    "is_args": question_mark,
    "method": method,
    "msec": msec,
    "pid": pid,
    "query_string": arguments,
    "real_request_uri": real_request_uri,
    "realip_remote_addr": peer_address,
    "realip_remote_port": peer_port,
    "remote_addr": remote_address,
    "remote_port": remote_port,
    "request_id": request_id,
    "request_length": request_length,
    "request_method": method,
    "request_time": request_time,
    "request_uri": request_uri,
    "scheme": scheme,
    "server_addr": server_address,
    "server_name": lambda _: SERVER_NAME,
    "server_port": server_port,
    "server_protocol": server_protocol,
    "time_iso8601": time_iso8601,
    "time_local": time_local,
    "uri": uri,
}
