"""Several requests in one, by a POST to an address that ``public-api`` opens.

It is ``/apisix/batch-requests``, or ``plugin_attr.batch-requests.uri`` of the settings. The body is a JSON object:

    query       arguments for all of them
    headers     fields for all of them
    timeout     milliseconds for all together (30000)
    pipeline    the requests, at least one: ``method`` (GET), ``path``, ``query``, ``headers``, ``body``, ``version``
                (1.1); ``ssl_verify`` is taken, and of no effect

They are served one after the other by the gateway itself, as if the client had sent them, with the fields of the
request around them but for those named ``content-…``, those that frame a message, and Accept-Encoding.

Answers 200 with an array of ``status``, ``reason``, ``headers`` and ``body``; a request that was not answered in time
has status 504 and reason ``upstream timeout``. 400 and 413 with ``{"error_msg": …}`` for what cannot be. Metadata:
``max_body_size`` (1 MiB) and ``max_pipeline_items`` (1000). A batch in a batch is refused.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec

from worker.errors import ProxyError
from worker.fields import FRAMING, FieldLines, field_line
from worker.plugins.answer import Answer, error_message, json_answer
from worker.plugins.base import Endpoint, NoConfig, Plugin
from worker.plugins.batch_requests.inner import InnerAnswer, InnerFailed, InnerTransport, ask
from worker.plugins.request_body import whole_body
from worker.plugins.rewriting import sendable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from worker.exchange import Exchange

URI = "/apisix/batch-requests"
LONGEST = 24 * 3600 * 1000  # milliseconds
LARGEST = 64 * 1024 * 1024  # bytes of all answers to a batch
_NOT_INHERITED = FRAMING | {b"accept-encoding", b"expect", b"proxy-connection", b"te"}

Method = Literal["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"]
Values = dict[str, str | int | float | bool | list[str | int | float | bool]]


class Item(msgspec.Struct):
    """One request."""

    path: Annotated[str, msgspec.Meta(min_length=1, pattern=r"^/")]
    method: Method = "GET"
    version: float = 1.1
    query: Values = {}
    headers: dict[str, str | int | float] = {}
    body: str | None = None
    ssl_verify: bool = False


class Batch(msgspec.Struct):
    """What is asked."""

    pipeline: Annotated[list[Item], msgspec.Meta(min_length=1)]
    query: Values = {}
    headers: dict[str, str | int | float] = {}
    timeout: Annotated[int, msgspec.Meta(ge=1)] = 30_000


class BatchRequestsMetadata(msgspec.Struct):
    """How much may be asked at a time."""

    max_body_size: Annotated[int, msgspec.Meta(gt=0)] = 1024 * 1024
    max_pipeline_items: Annotated[int, msgspec.Meta(gt=0)] = 1000


class BatchRequests(Plugin[NoConfig]):
    """Offers the endpoint."""

    name = "batch-requests"
    priority = 4010
    Metadata = BatchRequestsMetadata

    @classmethod
    def endpoints(cls, attribute: Mapping[str, Any]) -> Mapping[tuple[bytes, bytes], Endpoint]:
        """Return the endpoint."""
        return {(b"POST", str(attribute.get("uri") or URI).encode()): batch}


def batch(exchange: "Exchange", metadata: BatchRequestsMetadata) -> "Answer | Awaitable[Answer]":
    """Answer a batch."""
    if isinstance(exchange.downstream.transport, InnerTransport):
        return error_message(400, "a batch may not hold another")
    body = whole_body(exchange, metadata.max_body_size)
    if body is None:
        return error_message(413, f"the request is larger than the {metadata.max_body_size} bytes that are allowed")
    if not body:
        return error_message(400, "no request body, you should give at least one pipeline setting")
    try:
        asked = msgspec.json.decode(body, type=Batch)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return error_message(400, f"bad request body: {error}")
    if len(asked.pipeline) > metadata.max_pipeline_items:
        return error_message(400, f"bad request body: more than {metadata.max_pipeline_items} requests in pipeline")
    inherited = inherited_fields(exchange)
    try:
        requests = [composed(asked, item, inherited) for item in asked.pipeline]
    except ValueError as error:
        return error_message(400, f"bad request body: {error}")
    return answered(exchange, asked, requests)


async def answered(exchange: "Exchange", asked: Batch, requests: list[bytes]) -> Answer:
    """Serve the requests one after the other."""
    downstream = exchange.downstream
    ends = (
        (exchange.remote_address, exchange.remote_port),
        (downstream.local_address, downstream.local_port),
    )
    answers: list[dict[str, Any]] = []
    room = LARGEST
    try:
        async with asyncio.timeout(min(asked.timeout, LONGEST) / 1000):
            for item, request in zip(asked.pipeline, requests, strict=True):
                try:
                    answer = await ask(downstream.context, ends, request, item.method == "HEAD", room)
                    room -= answer.size
                    answers.append(shown(answer))
                except (InnerFailed, ProxyError) as error:
                    answers.append({"status": 502, "reason": str(error)})
    except TimeoutError:
        missing = len(requests) - len(answers)
        answers += [{"status": 504, "reason": "upstream timeout"} for _ in range(missing)]
    return json_answer(200, answers)


def shown(answer: InnerAnswer) -> dict[str, Any]:
    """Return an answer as JSON has it; a field that is there more than once is an array."""
    headers: dict[str, Any] = {}
    for name, value in answer.fields:
        key, text = name.decode("latin-1"), value.decode("utf-8", "replace")
        if key not in headers:
            headers[key] = text
        elif isinstance(headers[key], list):
            headers[key].append(text)
        else:
            headers[key] = [headers[key], text]
    body = b"".join(answer.pieces).decode("utf-8", "replace")
    shown: dict[str, Any] = {"status": answer.status, "reason": answer.reason.decode("latin-1"), "headers": headers}
    return {**shown, "body": body} if body else shown


def inherited_fields(exchange: "Exchange") -> dict[str, list[bytes]]:
    """Return the fields that the requests have in common with the one around them."""
    request = exchange.request
    found: dict[str, list[bytes]] = {}
    for name, value in FieldLines(request.block[2:-2]).items() if request is not None else ():
        lower = name.lower()
        if lower not in _NOT_INHERITED and not lower.startswith(b"content-"):
            found.setdefault(lower.decode("latin-1"), []).append(value)
    if request is not None and request.host:
        found["host"] = [request.host]
    return found


def composed(asked: Batch, item: Item, inherited: Mapping[str, list[bytes]]) -> bytes:
    """Write a request; ValueError when it cannot be sent."""
    fields = dict(inherited)
    for own in (asked.headers, item.headers):
        fields.update({name.lower(): [str(value).encode()] for name, value in own.items()})
    body = (item.body or "").encode()
    for name in FRAMING:
        fields.pop(name.decode(), None)
    if item.version not in (1.0, 1.1):
        raise ValueError("version must be 1.0 or 1.1")
    lines = [field_line(name.encode(), value) for name, values in fields.items() for value in values]
    if "host" not in fields:
        lines.append(b"Host: \r\n")
    lines += [b"Connection: keep-alive\r\n", b"Content-Length: %d\r\n" % len(body)]
    version = b"1.1" if item.version == 1.1 else b"1.0"
    return b"%b %b HTTP/%b\r\n%b\r\n%b" % (
        item.method.encode(), target_of(asked, item), version, b"".join(lines), body,
    )  # fmt: skip


def target_of(asked: Batch, item: Item) -> bytes:
    """Return path and arguments of a request."""
    arguments = {**asked.query, **item.query}
    query = urlencode([(name, _text(value)) for name, values in arguments.items() for value in _each(values)])
    if not query:
        return sendable(item.path)
    return b"%b%b%b" % (sendable(item.path), b"&" if "?" in item.path else b"?", query.encode())


def _each(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
