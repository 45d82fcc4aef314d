"""One request from match to log: the file to read first.

``serve`` is a coroutine without a Task, one for each client connection. ``Http1Server`` resumes it with a request; it
suspends while a peer is being connected to and while the peer answers, and is resumed by the protocol that has the
answer (``exchange``). The bytes of both bodies flow directly between the two connections and do not pass through here.
"""

import logging
from typing import TYPE_CHECKING

from worker.discovery.nodes import first_nodes
from worker.edited_request import sent_host, sent_method
from worker.errors import (
    BodyNeeded,
    NoPeers,
    NoUpstream,
    PeerClosed,
    PeerUnresolved,
    RetryTimeout,
    RouteNotFound,
    ServiceMissing,
    UpstreamError,
    UpstreamMissing,
)
from worker.exchange import Exchange, suspend
from worker.http.answering import close_connection, refuse, respond, wait_for_refusal
from worker.http.connect import connect
from worker.http.relay import Keep, buffer_body
from worker.plugins.answer import Answer
from worker.plugins.filters import log_exchange
from worker.plugins.run import PluginRun
from worker.plugins.statistics import SAMPLED
from worker.plugins.tasks import in_task
from worker.upstream.retry import NON_IDEMPOTENT, may_retry

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from worker.context import WorkerContext
    from worker.http.http1_client import Http1Client
    from worker.http.http1_server import Http1Server
    from worker.messages import Request
    from worker.plugins.chain import Chain
    from worker.routing.route import Route
    from worker.upstream.peer import Peer, Upstream, UpstreamCell

log = logging.getLogger("propylon.http")


async def serve(context: "WorkerContext", downstream: "Http1Server") -> None:
    """Carry the requests of a connection, one after the other, from match to log."""
    router, plugins = context.router, context.plugins
    while True:
        exchange: Exchange = await suspend()
        request: Request = exchange.request  # type: ignore[assignment]  # only requests that were read come here
        try:
            if request.matched_at == router.version:
                route, chain = request.route, request.chain
            else:
                route = router.match(exchange)
                chain = request.chain = plugins.chain_of(route)
            if chain is not None:
                exchange.route = route
                answer = before_peers(context, exchange, route, chain)
                if answer is None and route is not None:
                    await forward(context, exchange, received(exchange), route)
                else:
                    await answer_or_forward(context, exchange, route, answer)
            elif route is not None:
                exchange.route = route
                await forward(context, exchange, request, route)
            else:
                raise RouteNotFound("no route matches")
        except BodyNeeded as needed:
            await serve_with_body(context, exchange, needed.limit)
        except Exception as error:
            pending = refuse(context, exchange, error)
            if pending is not None:
                await wait_for_refusal(exchange, pending)
        if exchange.place is not None:
            exchange.place.leave(exchange)
        if exchange.run is not None:
            log_exchange(exchange)
        if context.access_log is not None:
            context.access_log.record(exchange)
        downstream.exchange_ended(exchange)


async def serve_with_body(context: "WorkerContext", exchange: Exchange, limit: int) -> None:
    """Begin again with the request's body at hand, for what cannot be decided without.

    That may be the choice of a peer: what plugins there are have run by then, and do not run again.
    """
    try:
        await buffer_body(exchange, limit)
        answer: Answer | Awaitable[Answer | None] | None = None
        if exchange.run is None:
            exchange.route = context.router.match(exchange)
            chain = context.plugins.chain_of(exchange.route)
            if chain is not None:
                answer = before_peers(context, exchange, exchange.route, chain)
        await answer_or_forward(context, exchange, exchange.route, answer)
    except Exception as error:
        if isinstance(error, BodyNeeded) and error.limit > limit:
            await serve_with_body(context, exchange, error.limit)
            return
        pending = refuse(context, exchange, error)
        if pending is not None:
            await wait_for_refusal(exchange, pending)


def before_peers(
    context: "WorkerContext", exchange: Exchange, route: "Route | None", chain: "Chain"
) -> "Answer | Awaitable[Answer | None] | None":
    """Carry a request through the phases of its plugins before a peer is chosen (plugins.md section 1).

    Returns:
        What one of them has answered; something to be awaited for that, and for the rest, where one has to wait.

    Raises:
        ProxyError: what plugins raise.
    """
    exchange.run = PluginRun(chain, exchange.started, exchange.downstream.requests % SAMPLED == 0)
    if not chain.rewrite:
        return chain.run(exchange, chain.access) if chain.access else None
    answer = chain.run(exchange, chain.rewrite)
    if answer is None:
        return access(context, exchange, route)
    return answer if isinstance(answer, Answer) else access_later(context, exchange, route, answer)


def access(
    context: "WorkerContext", exchange: Exchange, route: "Route | None"
) -> "Answer | Awaitable[Answer | None] | None":
    """Carry out what follows the rewriting, of a consumer as well if one is known by now."""
    run = exchange.run
    assert run is not None  # noqa: S101 - plugins have rewritten
    chain = run.chain
    if run.consumer is None or route is None:
        return chain.run(exchange, chain.access) if chain.access else None
    chain = run.chain = context.plugins.with_consumer(chain, run.consumer)
    return chain.run(exchange, chain.brought)


async def access_later(
    context: "WorkerContext", exchange: Exchange, route: "Route | None", rewriting: "Awaitable[Answer | None]"
) -> Answer | None:
    """Carry it out when a plugin that rewrites does not have to be waited for any more."""
    answer = await rewriting
    if answer is not None:
        return answer
    rest = access(context, exchange, route)
    return rest if rest is None or isinstance(rest, Answer) else await rest


async def answer_or_forward(
    context: "WorkerContext",
    exchange: Exchange,
    route: "Route | None",
    answer: "Answer | Awaitable[Answer | None] | None",
) -> None:
    """Send what a plugin has answered, or will, and otherwise the request to a peer.

    Raises:
        ProxyError: as ``forward``, and what plugins raise.
    """
    if answer is not None and not isinstance(answer, Answer):
        answer = await answer
    if answer is not None:
        pending = respond(context, exchange, answer)
        if pending is not None:
            await in_task(exchange, pending)
        return
    if route is None:
        raise RouteNotFound("no route matches")
    if exchange.run is not None:
        exchange.run.sent_at = context.time()
    await forward(context, exchange, received(exchange), route)


def received(exchange: Exchange) -> "Request":
    """Return the request of an exchange that has one, as plugins have left it."""
    request = exchange.request
    assert request is not None  # noqa: S101 - only requests that were read come here
    return request


def upstream_of(route: "Route", chosen: "UpstreamCell | None" = None) -> "Upstream":
    """Return the upstream of a route: its own, or else its service's (data-model.md section 15).

    The one that a plugin has ``chosen`` goes before both.

    Raises:
        ServiceMissing, UpstreamMissing, NoUpstream: a reference leads nowhere.
    """
    cell = chosen or route.upstream
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
    run = exchange.run
    upstream = upstream_of(route, None if run is None else run.upstream)
    if upstream.balancer is None:
        upstream = await with_nodes(exchange, route, upstream)
        assert upstream.balancer is not None  # noqa: S101 - it has nodes
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
        if run is not None and run.chain.before_proxy:
            if await was_answered(context, exchange, run.chain):
                return
            request, body = received(exchange), exchange.body
            content = exchange.buffered_body or b"" if body is None else b""
        try:
            pool = peer.pool if peer.by_host is None else peer.by_host.pool(sent_host(request) or peer.authority)
            connection = pool.acquire()
            if connection is None:
                connection = await connect(context, exchange, pool, timeout.connect)
            exchange.connection = connection
            connection.timeout = timeout
            passes_host = upstream.pass_host and (request.host or sent_host(request))
            head = request.wire if passes_host else request.head_for(upstream.host_for(peer))
            if request.upgrade and route.allows_upgrade():
                connection.send_upgrade(exchange, request.with_upgrade(head) + content)
            else:
                connection.send_request(exchange, head + content if content else head)
            if body is not None:
                body.attach(connection, what_to_keep(upstream, sent_method(request), len(tried), connection))
            exchange.waiting = connection
            await suspend()
            if upstream.passive is not None:
                response = connection.response  # of which plugins may have made another
                upstream.passive.answered(peer, response.status if response is not None else exchange.status)
            return
        except UpstreamError as error:
            is_late = 0 < upstream.retry_timeout < context.time() - began
            try:
                peer, tried = next_peer(exchange, request, upstream, tried, error, is_late)
            except UpstreamError as last:
                if upstream.passive is not None and not exchange.status:
                    upstream.passive.answered(peer, last.status)
                raise


async def was_answered(context: "WorkerContext", exchange: Exchange, chain: "Chain") -> bool:
    """Let plugins see the peer that has been chosen; tell whether one of them has answered."""
    answer = chain.run(exchange, chain.before_proxy)
    if answer is not None and not isinstance(answer, Answer):
        answer = await answer
    if answer is not None:
        pending = respond(context, exchange, answer)
        if pending is not None:
            await in_task(exchange, pending)
    return answer is not None


async def with_nodes(exchange: Exchange, route: "Route", upstream: "Upstream") -> "Upstream":
    """Return the upstream once its nodes have been discovered, if they are to be.

    Raises:
        NoPeers: it has none.
    """
    if upstream.discovered is not None:
        await first_nodes(exchange, upstream.discovered)
        upstream = upstream_of(route, exchange.run.upstream if exchange.run is not None else None)
    if upstream.balancer is None:
        raise NoPeers(f"upstream {upstream.id}: {upstream.reason_unusable()}")
    return upstream


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
    has_begun = bool(exchange.status) or (exchange.run is not None and exchange.run.head is not None)
    is_over = has_begun or not may_retry(error, sent_method(request), exchange.body is None or exchange.body.replayable)
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
