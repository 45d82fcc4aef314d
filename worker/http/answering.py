"""What the gateway answers itself: errors, and what plugins answer instead of an upstream.

Where a plugin's response phase has to be waited for, nothing has been sent when these return: what they return has to
be awaited.
"""

import logging
from typing import TYPE_CHECKING, Any

from worker.errors import ClientClosed, PluginFailed, ProxyError, RouteNotFound, Source
from worker.exchange import Exchange
from worker.http.made import composed, error_answer
from worker.plugins.answer import Answer
from worker.plugins.tasks import in_task

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine

    from worker.context import WorkerContext

log = logging.getLogger("propylon.http")


def close_connection(exchange: Exchange) -> None:
    """Give up the upstream connection of an exchange that did not end well."""
    if exchange.body is not None:
        exchange.body.detach()
    if exchange.connection is not None:
        if exchange.connection.exchange is exchange:
            exchange.connection.close()
        exchange.connection = None


def refuse(context: "WorkerContext", exchange: Exchange, error: Exception) -> "Coroutine[Any, Any, None] | None":
    """Answer with an error, or cut the answer off where it has already begun; what is returned has to be waited for."""
    if not isinstance(error, ProxyError):
        log.error("internal error on %r", exchange.request, exc_info=error)
        error = ProxyError("internal error")
    exchange.error = error
    downstream = exchange.downstream
    close_connection(exchange)
    if error.source is not Source.DOWNSTREAM:
        log.error("%s, client: %s, request: %r", error, exchange.remote_address, exchange.request)
    elif not isinstance(error, RouteNotFound | ClientClosed):  # these the access log tells
        log.info("%s: %s, client: %s", type(error).__name__, error, exchange.remote_address)
    if exchange.status:
        downstream.abort()
        return None
    if isinstance(error, ClientClosed):
        exchange.status = error.status
        return None
    try:
        pending = send(context, exchange, error_answer(error, exchange))
    except Exception as failure:
        send_plain(context, exchange, failure)
        return None
    return None if pending is None else send_or_plain(context, exchange, pending)


def send_plain(context: "WorkerContext", exchange: Exchange, failure: Exception) -> None:
    """Answer with an error that no plugin sees, since one of them has failed on it."""
    if not isinstance(failure, PluginFailed):
        log.error("internal error on %r", exchange.request, exc_info=failure)
    send(context, exchange, error_answer(ProxyError("internal error"), exchange), filtered=False)


async def send_or_plain(context: "WorkerContext", exchange: Exchange, pending: "Awaitable[None]") -> None:
    """Answer with an error that plugins have to be waited for with."""
    try:
        await pending
    except Exception as failure:
        send_plain(context, exchange, failure)


async def wait_for_refusal(exchange: Exchange, pending: "Awaitable[None]") -> None:
    """Wait until an error has been answered, or the client is gone."""
    try:
        await in_task(exchange, pending)
    except ProxyError as error:
        exchange.status = error.status
        exchange.downstream.abort()


def respond(context: "WorkerContext", exchange: Exchange, answer: Answer) -> "Coroutine[Any, Any, None] | None":
    """Answer a request instead of an upstream; what is returned has to be waited for."""
    if exchange.run is not None:
        exchange.run.answer = answer
    close_connection(exchange)
    return send(context, exchange, answer)


def send(
    context: "WorkerContext", exchange: Exchange, answer: Answer, filtered: bool = True
) -> "Coroutine[Any, Any, None] | None":
    """Send an answer that the gateway makes itself, through the plugins' response phases unless not ``filtered``.

    Where one of them has to be waited for, what is returned has to be, too.

    Raises:
        PluginFailed: one of them has failed; nothing has been sent.
    """
    downstream, request = exchange.downstream, exchange.request
    if request is None or (exchange.body is not None and not exchange.body.complete):
        downstream.keep_alive = False
    made = composed(answer, exchange, context.date_line, filtered)
    if not isinstance(made, tuple):
        return send_later(exchange, made)
    head, body = made
    exchange.bytes_sent = len(body)
    if exchange.run is not None:
        exchange.run.sent_head = head
    downstream.write(head + body)
    return None


async def send_later(exchange: Exchange, made: "Awaitable[tuple[bytes, bytes]]") -> None:
    """Send an answer once it has been made."""
    head, body = await made
    exchange.bytes_sent = len(body)
    exchange.downstream.write(head + body)
