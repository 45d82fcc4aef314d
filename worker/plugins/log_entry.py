"""What loggers say of a request: the default entry, or one in a form of one's own (plugins.md section 7)."""

import socket
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from config_sync.errors import InvalidResource
from worker.variables import accessor
from worker.variables.request import arguments_of, request_uri

if TYPE_CHECKING:
    from worker.exchange import Exchange

DEEPEST = 5
VERSION = "3.18.0"  # of the APISIX whose behaviour this is
HOSTNAME = socket.gethostname()
Entry = dict[str, Any]
Builder = Callable[["Exchange"], Entry]
_encode = msgspec.json.Encoder().encode


def encoded(entry: Entry) -> bytes:
    """Write an entry as JSON; bytes that are no text are replaced."""
    try:
        return _encode(entry)
    except UnicodeEncodeError:
        return _encode(_clean(entry))


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {_clean(name): _clean(member) for name, member in value.items()}
    return [_clean(member) for member in value] if isinstance(value, list) else value


# forms of one's own


def check_format(format_: Any, path: str, depth: int = 1) -> None:
    """Check a form: an object of texts, and of objects, ``DEEPEST`` levels at most; InvalidResource."""
    if depth > DEEPEST:
        raise InvalidResource(path, f"has more than {DEEPEST} levels")
    for name, value in format_.items():
        if isinstance(value, Mapping):
            check_format(value, f"{path}.{name}", depth + 1)


def compiled(format_: Mapping[str, Any]) -> Builder:
    """Compile a form: ``$name`` stands for a variable, which is left out while it has no value."""
    fixed: Entry = {}
    variables: list[tuple[str, Callable[[Exchange], Any]]] = []
    for name, value in format_.items():
        if isinstance(value, Mapping):
            variables.append((name, compiled(value)))
        elif isinstance(value, str) and value.startswith("$"):
            variables.append((name, accessor(value[1:])))
        else:
            fixed[name] = value

    def build(exchange: "Exchange") -> Entry:
        entry = dict(fixed)
        for name, get in variables:
            value = get(exchange)
            if value is not None:
                entry[name] = value
        return entry

    return build


def in_own_form(format_: Mapping[str, Any]) -> Builder:
    """Compile a form, with the ids that are always added."""
    build = compiled(format_)

    def entry(exchange: "Exchange") -> Entry:
        return {**build(exchange), **_ids(exchange)}

    return entry


# the default entry


def default_entry(exchange: "Exchange") -> Entry:
    """Return what is known of an exchange that is over."""
    context, run, request, peer = exchange.downstream.context, exchange.run, exchange.request, exchange.peer
    assert run is not None and request is not None  # noqa: S101, PT018 - loggers run in one
    now = context.time()
    latency = max(0.0, now - exchange.started) * 1000
    host = request.host_name.decode("utf-8", "surrogateescape") or "_"
    uri = request_uri(exchange) or ""
    entry: Entry = {
        "request": {
            "url": f"{exchange.downstream.scheme}://{host}:{exchange.downstream.local_port}{uri}",
            "uri": uri,
            "method": request.method.decode("latin-1"),
            "headers": _headers(request.block[2:]),
            "querystring": dict(arguments_of(request)),
            "size": request_size(exchange),
        },
        "response": {
            "status": exchange.status,
            "headers": _headers(sent_head(exchange)),
            "size": len(sent_head(exchange)) + exchange.bytes_sent,
        },
        "server": {"hostname": HOSTNAME, "version": VERSION},
        "upstream": peer.address if peer is not None else "",
        **_ids(exchange),
        "client_ip": exchange.remote_address,
        "start_time": round(time.time() * 1000 - latency),
        "latency": round(latency, 3),
    }
    upstream = (now - run.sent_at) * 1000 if peer is not None else 0.0
    if peer is not None:
        entry["upstream_latency"] = round(upstream, 3)
    entry["apisix_latency"] = round(max(0.0, latency - upstream), 3)
    if run.consumer is not None:
        entry["consumer"] = {"username": run.consumer.username}
    return entry


def request_size(exchange: "Exchange") -> int:
    """Return the bytes of a request: its head, and what is known of its body."""
    request = exchange.request
    assert request is not None  # noqa: S101 - loggers run in one
    body = len(exchange.buffered_body) if exchange.buffered_body is not None else request.content_length
    return (request.size or request.measured()) + body


def sent_head(exchange: "Exchange") -> bytes:
    """Return the head of the answer; that of an upstream's without the lines that frame it."""
    run = exchange.run
    if run is not None and run.sent_head:
        return run.sent_head
    response = exchange.connection.response if exchange.connection is not None else None
    return response.head if response is not None else b""


def _ids(exchange: "Exchange") -> Entry:
    route = exchange.route
    service = route.service if route is not None else None
    return {
        "service_id": service.id if service is not None else "",
        "route_id": route.id if route is not None else "",
    }


def _headers(lines: bytes) -> Entry:
    """Return fields by lower-case name; several of a name as an array. A status line is passed over."""
    found: Entry = {}
    for line in lines.decode("utf-8", "surrogateescape").split("\r\n"):
        name, colon, text = line.partition(":")
        if not colon or " " in name:
            continue
        name, text = name.lower(), text.strip(" \t")
        before = found.get(name)
        if before is None:
            found[name] = text
        elif isinstance(before, list):
            before.append(text)
        else:
            found[name] = [before, text]
    return found
