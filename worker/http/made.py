"""Answers that the gateway makes itself, its own or a plugin's: the head is composed here."""

from functools import lru_cache
from typing import TYPE_CHECKING

from worker.errors import ProxyError, RouteNotFound
from worker.fields import FRAMING, field_line
from worker.http.responses import SERVER, attempts_line, connection_line, content_type
from worker.plugins.answer import Answer
from worker.plugins.filters import filter_head
from worker.plugins.response_head import BODILESS, ResponseHead, reason_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from worker.exchange import Exchange

_ROUTE_NOT_FOUND = b'{"error_msg":"404 Route Not Found"}\n'  # byte for byte (routing.md section 10)
_HTML = b"text/html; charset=utf-8"
_PAGE = (
    "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
    "<hr><center>propylon</center>\r\n</body>\r\n</html>\r\n"
)


def error_answer(error: ProxyError, exchange: "Exchange") -> Answer:
    """Make the answer to a request that has failed."""
    if isinstance(error, RouteNotFound):
        return Answer(404, _ROUTE_NOT_FOUND)
    return Answer(error.status, page(error.status), content_type=_HTML)


@lru_cache(maxsize=64)
def page(status: int) -> bytes:
    """Return the page for a status."""
    title = f"{status} {reason_of(status).decode()}".strip()
    return _PAGE.format(title=title).encode()


def composed(
    answer: Answer, exchange: "Exchange", date: bytes, filtered: bool = True
) -> "tuple[bytes, bytes] | Awaitable[tuple[bytes, bytes]]":
    """Return head and body of an answer, after the response phases of the plugins that apply unless not ``filtered``.

    Where one of them has to be waited for, so has the answer.

    An answer without a body gets the page for its status, from 300 on. Fields that frame a message are left out: it
    is this one's length that counts.

    Raises:
        PluginFailed: one of the plugins has failed.
        ValueError: status or a field of the answer cannot be sent.
    """
    if not 200 <= answer.status <= 999:
        raise ValueError(f"{answer.status} is not the status of an answer")
    request = exchange.request
    body, kind = answer.body, answer.content_type
    if body is None:
        body, kind = (page(answer.status), kind or _HTML) if answer.status >= 300 else (b"", kind)
    kind = kind or content_type(request.path if request is not None else b"")
    fields = b"Server: %b\r\n%b%b%b" % (
        SERVER,
        date,
        b"Content-Type: %b\r\n" % kind if body and not _names(answer, b"content-type") else b"",
        b"".join([field_line(name, value) for name, value in answer.fields if name.lower() not in FRAMING]),
    )
    answers_head = request is not None and request.method == b"HEAD"
    head = ResponseHead(answer.status, reason_of(answer.status), fields, len(body), answers_head, False)
    run = exchange.run
    if filtered and run is not None and run.chain.filters:
        filter_head(exchange, head)
        if run.body is not None:
            whole = run.body.whole(body)
            if not isinstance(whole, bytes):
                return _composed_later(exchange, head, whole)
            body = whole
    return _composed(exchange, head, body)


async def _composed_later(exchange: "Exchange", head: ResponseHead, body: "Awaitable[bytes]") -> tuple[bytes, bytes]:
    return _composed(exchange, head, await body)


def _composed(exchange: "Exchange", head: ResponseHead, body: bytes) -> tuple[bytes, bytes]:
    request = exchange.request
    answers_head = request is not None and request.method == b"HEAD"
    exchange.status = head.status
    is_known = head.has_body or (answers_head and head.status not in BODILESS and not head.length_changes)
    length = b"Content-Length: %d\r\n" % len(body) if is_known else b""
    attempts = attempts_line(exchange.attempts) if exchange.error is not None else b""
    connection = connection_line(request, exchange.downstream.keep_alive)
    lines = b"%b%b%b%b%b\r\n" % (head.status_line(), head.fields.lines, length, attempts, connection)
    return lines, body if head.has_body else b""


def _names(answer: Answer, name: bytes) -> bool:
    return any(field.lower() == name for field, _ in answer.fields)
