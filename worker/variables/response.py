"""Variables of the answer, of the peer it came from, and of the route; missing before they are known."""

import socket
from functools import lru_cache
from typing import TYPE_CHECKING

from worker.edited_request import sent_host, sent_target
from worker.variables.request import field_pattern
from worker.variables.values import Accessor, Value, text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.messages import Response
    from worker.upstream.peer import Upstream


def _response_of(exchange: "Exchange") -> "Response | None":
    return exchange.connection.response if exchange.connection is not None else None


def upstream_header(name: str) -> Accessor:
    """Make the function for ``upstream_http_<name>``: a field of the peer's answer that was passed on."""
    find = field_pattern(name).findall

    def upstream_header_value(exchange: "Exchange") -> str | None:
        response = _response_of(exchange)
        values = find(response.head) if response is not None else None
        return text_of(b", ".join(value.rstrip(b" \t") for value in values)) if values else None

    return upstream_header_value


def sent_header(name: str) -> Accessor:
    """Make the function for ``sent_http_<name>``: a field of the answer, as long as that came from a peer.

    Where plugins see answers, it is what they have made of it, or of the gateway's own.
    """
    from_peer, find = upstream_header(name), field_pattern(name).findall

    def sent_header_value(exchange: "Exchange") -> Value | None:
        run = exchange.run
        if run is None or (run.head is None and not run.sent_head):
            return from_peer(exchange) if exchange.error is None else None
        values = find(b"\n" + run.head.fields.lines if run.head is not None else run.sent_head)
        return text_of(b", ".join(value.rstrip(b" \t") for value in values)) if values else None

    return sent_header_value


def status(exchange: "Exchange") -> str | None:
    """Return the status of the answer, also while plugins see its head."""
    if exchange.status:
        return str(exchange.status)
    run = exchange.run
    return str(run.head.status) if run is not None and run.head is not None else None


def body_bytes_sent(exchange: "Exchange") -> str:
    """Return the bytes of the answer's body that were sent."""
    return str(exchange.bytes_sent)


def upstream_status(exchange: "Exchange") -> str | None:
    """Return the statuses of all tries; the last is the peer's own when it has answered."""
    tries = list(exchange.attempts or ())
    response = _response_of(exchange)
    if response is not None:
        tries.append(response.status)
    return ", ".join(map(str, tries)) if tries else None


def upstream_address(exchange: "Exchange") -> str | None:
    """Return address and port of the peer."""
    peer = exchange.peer
    if peer is None:
        return None
    return f"[{peer.host}]:{peer.port}" if ":" in peer.host else f"{peer.host}:{peer.port}"


def balancer_ip(exchange: "Exchange") -> str | None:
    """Return the host of the peer."""
    return exchange.peer.host if exchange.peer is not None else None


def balancer_port(exchange: "Exchange") -> str | None:
    """Return the port of the peer."""
    return str(exchange.peer.port) if exchange.peer is not None else None


@lru_cache(maxsize=1024)
def _is_address(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        return False
    return True


def upstream_unresolved_host(exchange: "Exchange") -> str | None:
    """Return the name of a peer that is configured by name."""
    peer = exchange.peer
    return peer.host if peer is not None and not _is_address(peer.host) else None


def upstream_scheme(exchange: "Exchange") -> str | None:
    """Return how the peer is spoken to."""
    return exchange.peer.pool.key.scheme if exchange.peer is not None else None


def _upstream_of(exchange: "Exchange") -> "Upstream | None":
    route, run = exchange.route, exchange.run
    if route is None:
        return None
    chosen = run.upstream if run is not None else None
    cell = chosen or route.upstream or (route.service.upstream if route.service is not None else None)
    return cell.current if cell is not None else None


def upstream_host(exchange: "Exchange") -> str | None:
    """Return the Host that the peer is sent."""
    request, peer, upstream = exchange.request, exchange.peer, _upstream_of(exchange)
    if request is None or peer is None or upstream is None:
        return None
    passed = sent_host(request) if upstream.pass_host else b""
    return text_of(passed or upstream.host_for(peer))


def upstream_uri(exchange: "Exchange") -> str | None:
    """Return the target that the peer is sent."""
    request = exchange.request
    return text_of(sent_target(request)) if request is not None and exchange.peer is not None else None


def route_id(exchange: "Exchange") -> str | None:
    """Return the id of the route."""
    return exchange.route.id if exchange.route is not None else None


def service_id(exchange: "Exchange") -> str | None:
    """Return the id of the route's service."""
    service = exchange.route.service if exchange.route is not None else None
    return service.id if service is not None else None


NAMES: dict[str, Accessor] = {
    "balancer_ip": balancer_ip,
    "balancer_port": balancer_port,
    "body_bytes_sent": body_bytes_sent,
    "route_id": route_id,
    "service_id": service_id,
    "status": status,
    "upstream_addr": upstream_address,
    "upstream_host": upstream_host,
    "upstream_scheme": upstream_scheme,
    "upstream_status": upstream_status,
    "upstream_unresolved_host": upstream_unresolved_host,
    "upstream_uri": upstream_uri,
}
