"""One request from match to log: the file to read first.

``serve`` is a coroutine without a Task, one for each client connection. ``Http1Server`` resumes it with a request; it
suspends while a peer is being connected to and while the peer answers, and is resumed by the protocol that has the
answer (``exchange``). The bytes of both bodies flow directly between the two connections and do not pass through here.
"""

import logging
from typing import TYPE_CHECKING

from worker.discovery.nodes import first_nodes
from worker.errors import (
    BodyNeeded,
    ClientClosed,
    NoPeers,
    NoUpstream,
    PeerClosed,
    PeerUnresolved,
    ProxyError,
    RetryTimeout,
    RouteNotFound,
    ServiceMissing,
    Source,
    UpstreamError,
    UpstreamMissing,
)
from worker.exchange import Exchange, suspend
from worker.http.connect import connect
from worker.http.relay import Keep, buffer_body
from worker.http.responses import error_response
from worker.upstream.retry import NON_IDEMPOTENT, may_retry

if TYPE_CHECKING:
    from worker.context import WorkerContext
    from worker.http.http1_client import Http1Client
    from worker.http.http1_server import Http1Server
    from worker.messages import Request
    from worker.routing.route import Route
    from worker.upstream.peer import Peer, Upstream

log = logging.getLogger("propylon.http")


async def serve(context: "WorkerContext", downstream: "Http1Server") -> None:
    """Carry the requests of a connection, one after the other, from match to log."""
    router = context.router
    while True:
        exchange: Exchange = await suspend()
        request: Request = exchange.request  # type: ignore[assignment]  # only requests that were read come here
        try:
            route = request.route if request.matched_at == router.version else router.match(exchange)
            if route is None:
                raise RouteNotFound("no route matches")
            exchange.route = route
            await forward(context, exchange, request, route)
        except BodyNeeded as needed:
            await serve_with_body(context, exchange, request, needed.limit)
        except Exception as error:
            refuse(context, exchange, error)
        if exchange.place is not None:
            exchange.place.leave(exchange)
        if context.access_log is not None:
            context.access_log.record(exchange)
        downstream.exchange_ended(exchange)


async def serve_with_body(context: "WorkerContext", exchange: Exchange, request: "Request", limit: int) -> None:
    """Begin again with the request's body at hand, for what cannot be decided without."""
    try:
        await buffer_body(exchange, limit)
        route = context.router.match(exchange)
        if route is None:
            raise RouteNotFound("no route matches")
        exchange.route = route
        await forward(context, exchange, request, route)
    except Exception as error:
        refuse(context, exchange, error)


def upstream_of(route: "Route") -> "Upstream":
    """Return the upstream of a route: its own, or else its service's (data-model.md section 15).

    Raises:
        ServiceMissing, UpstreamMissing, NoUpstream: a reference leads nowhere.
    """
    cell = route.upstream
    service = route.service
    if service is not None:
        if not service.exists:
            raise ServiceMissing(f"service {service.id} of route {route.id} does not exist")
        cell = cell or service.upstream
    if cell is None:
        raise NoUpstream(f"route {route.id} has no upstream")
    upstream = cell.current or cell.used()
    if upstream is None:
        raise UpstreamMissing(f"upstream {cell.id} of route {route.id} does not exist")
    return upstream


async def forward(context: "WorkerContext", exchange: Exchange, request: "Request", route: "Route") -> None:
    """Send the request to a peer of the route's upstream, and to another while ``next_peer`` agrees.

    When it returns the whole answer has been passed on, or the tunnel has ended that came of it.

    Raises:
        UpstreamError: no peer answered; what the client has seen of an answer is in ``exchange.status``.
    """
    upstream = upstream_of(route)
    if upstream.balancer is None:
        if upstream.discovered is not None:
            await first_nodes(exchange, upstream.discovered)
            upstream = upstream_of(route)
        if upstream.balancer is None:
            raise NoPeers(f"upstream {upstream.id}: {upstream.reason_unusable()}")
    timeout = route.timeout or upstream.timeout
    body = exchange.body
    began = exchange.started if body is None else context.time()
    content = exchange.buffered_body or b"" if body is None else b""
    tried: tuple[Peer, ...] = ()
    peer = upstream.balancer.next(exchange)
    if peer is None:
        peer = await wait_for_peer(exchange, upstream)
    while True:
        exchange.peer = peer
        try:
            pool = peer.pool if peer.by_host is None else peer.by_host.pool(request.host or peer.authority)
            connection = pool.acquire()
            if connection is None:
                connection = await connect(context, exchange, pool, timeout.connect)
            exchange.connection = connection
            connection.timeout = timeout
            head = request.wire if upstream.pass_host and request.host else request.head_for(upstream.host_for(peer))
            if request.upgrade and route.allows_upgrade():
                connection.send_upgrade(exchange, request.with_upgrade(head) + content)
            else:
                connection.send_request(exchange, head + content if content else head)
            if body is not None:
                body.attach(connection, what_to_keep(upstream, request.method, len(tried), connection))
            exchange.waiting = connection
            await suspend()
            if upstream.passive is not None:
                upstream.passive.answered(peer, exchange.status)
            return
        except UpstreamError as error:
            is_late = 0 < upstream.retry_timeout < context.time() - began
            try:
                peer, tried = next_peer(exchange, request, upstream, tried, error, is_late)
            except UpstreamError as last:
                if upstream.passive is not None and not exchange.status:
                    upstream.passive.answered(peer, last.status)
                raise


def what_to_keep(upstream: "Upstream", method: bytes, failed: int, connection: "Http1Client") -> Keep:
    """Decide what of a body may have to be sent again once it has been sent on a connection."""
    if method in NON_IDEMPOTENT:
        return Keep.NOTHING
    if failed < upstream.retries and failed + 1 < len(upstream.peers):
        return Keep.ALL
    # A connection that dies idle is noticed early, mostly before the body has gone far.
    return Keep.BEGINNING if connection.requests > 1 else Keep.NOTHING


async def wait_for_peer(exchange: Exchange, upstream: "Upstream") -> "Peer":
    """Wait until a peer has room for an exchange that the balancer has none for.

    Raises:
        NoPeers, QueueFull, QueueTimeout: there is none, and none to wait for.
    """
    if upstream.queue is None:
        raise NoPeers(f"upstream {upstream.id} has no usable node")
    return await upstream.queue.wait(exchange)


def next_peer(
    exchange: Exchange,
    request: "Request",
    upstream: "Upstream",
    tried: "tuple[Peer, ...]",
    error: UpstreamError,
    is_late: bool,
) -> "tuple[Peer, tuple[Peer, ...]]":
    """Decide where to try again after an error, and which peers have been tried by then.

    Raises:
        UpstreamError: the given one when the request must not be tried again; RetryTimeout when it ``is_late``.
    """
    failed, connection = exchange.peer, exchange.connection
    assert failed is not None and upstream.balancer is not None  # noqa: S101, PT018 - a try has been made
    is_stale = (
        connection is not None and connection.requests > 1 and not connection.answered and isinstance(error, PeerClosed)
    )
    close_connection(exchange)
    is_over = bool(exchange.status) or not may_retry(
        error, request.method, exchange.body is None or exchange.body.replayable
    )
    if is_stale and not is_over:
        return failed, tried  # the peer closed an idle connection while we wrote: no failed try of the peer's
    is_unresolved = isinstance(error, PeerUnresolved)
    if upstream.passive is not None and not is_unresolved:
        upstream.passive.failed(failed, timed_out=error.status == 504)
    if exchange.status:
        raise error
    if not is_unresolved:
        exchange.failed_with(error.status)
    elif exchange.attempts:
        error.status = exchange.attempts[-1]  # to leave out a node changes nothing of how the others failed
    tried = (*tried, failed)
    if is_over or len(exchange.attempts or ()) > upstream.retries:
        raise error
    if is_late:
        raise RetryTimeout(f"no answer from upstream {upstream.id} within retry_timeout") from error
    peer = upstream.balancer.next(exchange, tried)
    if peer is None:
        raise error
    log.warning("%s; next peer: %r", error, peer)
    return peer, tried


def close_connection(exchange: Exchange) -> None:
    """Give up the upstream connection of an exchange that did not end well."""
    if exchange.body is not None:
        exchange.body.detach()
    if exchange.connection is not None:
        if exchange.connection.exchange is exchange:
            exchange.connection.close()
        exchange.connection = None


def refuse(context: "WorkerContext", exchange: Exchange, error: Exception) -> None:
    """Answer with an error, or cut the answer off where it has already begun."""
    if not isinstance(error, ProxyError):
        log.error("internal error on %r", exchange.request, exc_info=error)
        error = ProxyError("internal error")
    exchange.error = error
    downstream = exchange.downstream
    close_connection(exchange)
    if error.source is not Source.DOWNSTREAM:
        log.error("%s, client: %s, request: %r", error, downstream.remote_address, exchange.request)
    elif not isinstance(error, RouteNotFound | ClientClosed):  # these the access log tells
        log.info("%s: %s, client: %s", type(error).__name__, error, downstream.remote_address)
    if exchange.status:
        downstream.abort()
        return
    exchange.status = error.status
    if isinstance(error, ClientClosed):
        return
    request = exchange.request
    if request is None or (exchange.body is not None and not exchange.body.complete):
        downstream.keep_alive = False
    data, exchange.bytes_sent = error_response(
        error, request, downstream.keep_alive, context.date_line, exchange.attempts
    )
    downstream.write(data)
