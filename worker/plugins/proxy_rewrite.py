"""Changes what goes to the upstream: path, method, Host and fields.

    uri          the new path; may hold variables, and a query
    regex_uri    patterns, each followed by a replacement with ``$1``, ``$2``, …; the first that is found in the decoded
                 path replaces what it matches. ``uri`` wins over it.
    method       of the request that goes upstream
    host         the Host that goes to an upstream that is sent the client's
    headers      ``add``, ``set`` and ``remove``, done in this order, or an object that is set; values may hold
                 variables, and ``$1`` of ``regex_uri``; an array is a field for each of its members
    use_real_request_uri_unsafe    patterns see the target as it came, with its query, and what comes of it is sent as
                 it is

The client's query stays; it follows that of ``uri``. A path is written decoded: what cannot stand in one is
percent-encoded, also ``%``. Several in a row (a route's, then a consumer's) go on from what the one before has made.

Answers 500 ``{"error_msg": …}`` when a search takes too long. A path that a replacement leaves without its slash gets
one. Control characters that variables bring into fields become spaces.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from config_sync.errors import InvalidResource
from worker.edited_request import EditedRequest, edit, note_change, repeat
from worker.http.target import quoted
from worker.plugins.answer import Answer, error_message
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import field_value
from worker.plugins.rewriting import (
    FieldTemplates,
    TargetTemplate,
    assign_groups,
    check_fields,
    check_names,
    check_substitutions,
    sendable,
    substitutions,
)
from worker.variables.values import text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

Method = Literal[
    "GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "MKCOL", "COPY", "MOVE", "PROPFIND", "LOCK", "UNLOCK", "PATCH",
    "TRACE",
]  # fmt: skip
_STRUCTURED = ("add", "set", "remove")


class ProxyRewriteConfig(msgspec.Struct):
    """What is changed."""

    uri: Annotated[str, msgspec.Meta(min_length=1, max_length=4096, pattern=r"^/")] | None = None
    method: Method | None = None
    regex_uri: list[str] | None = None
    host: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z._\-\[\]:]+\Z")] | None = None
    headers: dict[str, Any] = {}
    use_real_request_uri_unsafe: bool = False


class Rewritten(NamedTuple):
    """What a request becomes; None where it stays as it is."""

    target: bytes | None
    lines: bytes
    host: bytes | None


class ProxyRewrite(Plugin[ProxyRewriteConfig]):
    """Rewrites requests."""

    name = "proxy-rewrite"
    priority = 1008
    Config = ProxyRewriteConfig

    def __init__(self, config: ProxyRewriteConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._uri = TargetTemplate(config.uri) if config.uri is not None else None
        self._substitutions = substitutions(config.regex_uri or ()) if self._uri is None else []
        self._is_raw = config.use_real_request_uri_unsafe
        self._method = config.method.encode() if config.method is not None else None
        self._host = config.host.encode() if config.host is not None else None
        self._fields = FieldTemplates(*parts_of(config.headers))
        self._depends_on_head_alone = self._fields.is_constant and (self._uri is None or self._uri.is_constant)

    @classmethod
    def check(cls, config: Any) -> None:
        """Check patterns and fields."""
        if config.regex_uri is not None:
            check_substitutions(config.regex_uri, "$.regex_uri")
        add, set_, remove = parts_of(config.headers)
        path = "$.headers" if not is_structured(config.headers) else "$.headers.set"
        check_fields(set_, path)
        check_fields(add, "$.headers.add")
        check_names(remove, "$.headers.remove")
        for name in config.headers if is_structured(config.headers) else ():
            if name not in _STRUCTURED:
                raise InvalidResource(f"$.headers[{name!r}]", "may not stand beside add, set and remove")

    def rewrite(self, exchange: "Exchange") -> Answer | None:
        """Change the request; what needs its body is found out before anything is changed."""
        received = exchange.request
        if self._depends_on_head_alone and repeat(exchange, self):
            return None
        request = edit(exchange)
        try:
            target = self._target(exchange, request)
        except TimeoutError:
            return error_message(
                500, f"failed to rewrite the uri: a pattern takes too long on {len(request.path)} bytes"
            )
        fields = self._fields
        lines = fields.lines(exchange)
        host = field_value(fields.host.render(exchange)) if fields.host is not None else self._host
        if target is not None:
            request.upstream_target = target
        if self._method is not None:
            request.set_method(self._method)
        if host is not None:
            request.upstream_host = host
        if fields.pattern is not None or lines:
            request.replace_lines(fields.pattern, lines)
        if self._depends_on_head_alone and received is not None:
            note_change(received, self, request)
        return None

    def _target(self, exchange: "Exchange", request: EditedRequest) -> bytes | None:
        """Return the new target; None when it stays as it is. TimeoutError when a search takes too long."""
        if self._uri is not None:
            path, query = self._uri.render(exchange)
            target = sendable(path) if self._is_raw else quoted(path.encode("utf-8", "surrogateescape"))
            kept = _query_of(request.upstream_target)
            if query is None:
                return b"%b?%b" % (target, kept) if kept else target
            own = sendable(query)
            return b"%b?%b&%b" % (target, own, kept) if kept else b"%b?%b" % (target, own)
        if not self._substitutions:
            return None
        before = request.upstream_target
        if self._is_raw:
            text = text_of(before)
        else:
            text = text_of(request.path if before == request.target else unquote_to_bytes(before.partition(b"?")[0]))
        for substitution in self._substitutions:
            found = substitution.search(text)
            if found is not None:
                if not self._fields.is_constant:
                    assign_groups(exchange, found)
                if self._is_raw:
                    return sendable(_with_slash(substitution.apply(text, found)))
                return _substituted(_with_slash(substitution.target(text, found)), before)
        return None


def _with_slash(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _substituted(text: str, before: bytes) -> bytes:
    """Return a target of a replaced path; NULs stand for question marks that do not begin the query."""
    path, _, query = text.partition("?")
    target = quoted(path.replace("\0", "?").encode("utf-8", "surrogateescape"))
    queries = [part for part in (sendable(query.replace("\0", "?")), _query_of(before)) if part]
    return b"%b?%b" % (target, b"&".join(queries)) if queries else target


def is_structured(headers: dict[str, Any]) -> bool:
    """Tell whether headers are given as ``add``, ``set`` and ``remove``, and not as fields of these names."""
    given = [headers[name] for name in _STRUCTURED if name in headers]
    return any(isinstance(value, dict | list) for value in given)


def parts_of(headers: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Return what is added, set and removed; empty arrays and objects are the same (data-model.md section 2)."""
    if not is_structured(headers):
        return {}, headers, ()
    return headers.get("add") or {}, headers.get("set") or {}, headers.get("remove") or ()


def _query_of(target: bytes) -> bytes:
    return target.partition(b"#")[0].partition(b"?")[2]
