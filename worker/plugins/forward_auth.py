"""forward-auth: another service is asked whether a request may go on.

Fields: ``uri``; ``request_method`` (``GET``; ``POST``, which sends the body, up to ``max_req_body_size``, 64 MiB);
``request_headers``, which are sent; ``extra_headers``, templates, likewise; ``upstream_headers``, which go on to the
upstream from the service's answer, and are taken out of the request where that has none, however they are written
there (``X_User`` is to many servers the same as ``X-User``); ``client_headers``, which the
client gets with a refusal; ``timeout`` in ms (3000, up to 60000), for the whole of the answer; ``keepalive`` (true),
``keepalive_timeout`` in ms (60000), ``keepalive_pool`` (5); ``ssl_verify`` (true); ``allow_degradation`` (false);
``status_on_error`` (403).

The service gets ``X-Forwarded-Proto``, ``-Method``, ``-Host``, ``-Uri`` and ``-For``; in ``-Uri`` the path is
normalised, with characters escaped that no URI has. An answer from 300 on is the client's, with status and body.
Without an answer the client gets ``status_on_error``, or with ``allow_degradation`` the request goes on, without the
``upstream_headers``; 413 for a body that is too large. ``keepalive_pool`` is accepted without effect: the connections
of all plugins are one pool. Needs the extra ``http``.
"""

import logging
import re
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import quote_from_bytes, urlsplit

import msgspec
from msgspec import Meta

from config_sync.errors import InvalidResource
from worker.edited_request import edit
from worker.plugins.answer import Answer
from worker.plugins.authentication import FieldName
from worker.plugins.base import Plugin, Scope
from worker.plugins.http_client import HttpAnswer, HttpFailed
from worker.plugins.request_body import whole_body
from worker.variables import Template, accessor

if TYPE_CHECKING:
    from worker.exchange import Exchange

log = logging.getLogger("propylon.plugins")

_NOT_OF_A_URL = re.compile(r"[^\x21-\x7e]")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
# What frames a message, or concerns a connection: the client and the gateway have each their own.
_FRAMING = frozenset(
    (b"connection", b"content-length", b"expect", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
_FORWARDED = tuple(
    (b"X-Forwarded-" + name, accessor(variable))
    for name, variable in ((b"Proto", "scheme"), (b"Method", "method"), (b"Host", "host"), (b"For", "remote_addr"))
)

Names = tuple[FieldName, ...]


class ForwardAuthConfig(msgspec.Struct):
    """Whom to ask, and what to tell."""

    uri: str
    request_method: Literal["GET", "POST"] = "GET"
    request_headers: Names = ()
    upstream_headers: Names = ()
    client_headers: Names = ()
    extra_headers: dict[FieldName, str] = {}
    timeout: Annotated[int, Meta(ge=1, le=60000)] = 3000
    keepalive: bool = True
    keepalive_timeout: Annotated[int, Meta(ge=1)] = 60000
    keepalive_pool: Annotated[int, Meta(ge=1)] = 5
    ssl_verify: bool = True
    allow_degradation: bool = False
    status_on_error: Annotated[int, Meta(ge=200, le=599)] = 403
    max_req_body_size: Annotated[int, Meta(ge=1)] = 64 * 1024 * 1024


class ForwardAuth(Plugin[ForwardAuthConfig]):
    """Asks for each request."""

    name = "forward-auth"
    priority = 2002
    Config = ForwardAuthConfig

    def __init__(self, config: ForwardAuthConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._client = scope.services.http
        self._client.require(self.name)
        self._sent = _names(config.request_headers)
        self._extra = tuple((name.encode(), Template(text)) for name, text in config.extra_headers.items())
        self._to_upstream = tuple(name.encode() for name in config.upstream_headers)
        self._forgeable = _lines_of([name for name in self._to_upstream if name.lower() != b"host"])
        self._to_client = frozenset(name.lower() for name in _names(config.client_headers))

    @classmethod
    def check(cls, config: ForwardAuthConfig) -> None:
        """Demand a URL, and fields that can be set."""
        try:
            url = urlsplit(config.uri)
            is_url = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
        except ValueError:
            is_url = False
        if not is_url or _NOT_OF_A_URL.search(config.uri) is not None:
            raise InvalidResource("$.uri", "must be a URL with http or https")
        for index, name in enumerate(config.upstream_headers):
            if name.lower().encode() in _FRAMING:
                raise InvalidResource(f"$.upstream_headers[{index}]", "frames the message and cannot be set")

    async def access(self, exchange: "Exchange") -> Answer | None:
        """Ask, and do as the answer says."""
        config = self.config
        body = None
        if config.request_method == "POST":
            body = whole_body(exchange, config.max_req_body_size)
            if body is None:
                return Answer(413)
        try:
            answer = await self._client.request(
                config.request_method,
                config.uri,
                fields=self._fields(exchange),
                body=body,
                within=config.timeout / 1000,
                verify=config.ssl_verify,
                keepalive=config.keepalive,
                idle_time=config.keepalive_timeout / 1000,
            )
        except HttpFailed as error:
            log.error("forward-auth: %s", error)
            if not config.allow_degradation:
                return Answer(config.status_on_error)
            answer = HttpAnswer(200, (), b"")
        if answer.status >= 300:
            fields = [(name, value) for name, value in answer.fields if name.lower() in self._to_client]
            return Answer(answer.status, answer.body, fields)
        self._pass_on(exchange, answer)
        return None

    def _fields(self, exchange: "Exchange") -> list[tuple[bytes, bytes]]:
        """Return what the service is told; nothing that a client sends may keep it from being sent."""
        request = exchange.request
        assert request is not None  # noqa: S101 - plugins run for one
        fields = [(name, _bytes(get(exchange))) for name, get in _FORWARDED]
        fields.append((b"X-Forwarded-Uri", _uri(request.path, request.target)))
        told = {name.lower() for name, _ in fields} | {name.lower() for name, _ in self._extra}
        for name in self._sent:
            value = request.header(name) if name.lower() not in told else None
            if value is not None:
                fields.append((name, _CONTROL.sub(b"", value)))
        for name, template in self._extra:
            fields = [field for field in fields if field[0].lower() != name.lower()]
            fields.append((name, _CONTROL.sub(b"", _bytes(template.render(exchange)))))
        return fields

    def _pass_on(self, exchange: "Exchange", answer: HttpAnswer) -> None:
        """Give the upstream what the service says of the request, and nothing that the client says in its place."""
        if not self._to_upstream:
            return
        request = edit(exchange)
        if self._forgeable is not None:
            request.replace_lines(self._forgeable, b"")
            request.cookies = None
        for name in self._to_upstream:
            values = answer.all_fields(name)
            if values:
                request.set_field(name, values)


def _lines_of(names: list[bytes]) -> re.Pattern[bytes] | None:
    """Compile what finds all lines of fields, in every spelling; None when there are no names."""
    spellings = [b"[-_]".join(map(re.escape, re.split(b"[-_]", name))) for name in names]
    return re.compile(rb"(?im)^(?:%b):.*\r?\n" % b"|".join(spellings)) if spellings else None


def _names(names: Names) -> tuple[bytes, ...]:
    return tuple(name.encode() for name in names if name.lower().encode() not in _FRAMING)


def _bytes(value: object) -> bytes:
    return str(value or "").encode("utf-8", "surrogateescape")


def _uri(path: bytes, target: bytes) -> bytes:
    """Return the normalised path with the query, as a URI."""
    _, mark, query = target.partition(b"#")[0].partition(b"?")
    return quote_from_bytes(path, safe="/!$&'()*+,;=:@~").encode() + mark + query
