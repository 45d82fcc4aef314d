"""Changes answers on their way to the client: status, body and fields.

    status_code           200 to 598
    body, body_base64     what the client gets instead of the body; with ``body_base64`` it is written in base64
    headers               ``add`` (an array of ``name: value``), ``set`` and ``remove``, done in this order, or an
                          object that is set; values may hold variables
    vars                  an expression, also on the answer (``status``, ``sent_http_…``); without it all are changed
    filters               instead of ``body``: ``regex`` is replaced by ``replace``, in which ``$1``, ``$2``, … are
                          groups; ``scope``: ``once`` or ``global``; ``options``: letters as ngx.re knows them
    max_resp_body_size    bytes (64 MiB), beyond which ``filters`` leave a body as it is

Where the body changes, Content-Length, Content-Encoding, ETag and Last-Modified go. For ``filters`` a body in gzip,
and in br where the extra ``brotli`` is installed, is decoded; one in another coding stays as it is, and so does one on
which a search takes too long. Answers that the gateway makes itself are changed, too.
"""

import logging
from base64 import b64decode
from binascii import Error as Base64Error
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from config_sync.errors import InvalidResource
from config_sync.schema.regexes import check_regex
from worker.errors import BodyNeeded
from worker.plugins.base import Plugin, Scope
from worker.plugins.decoding import bytes_in_steps, steps_by_coding, text_in_steps
from worker.plugins.rewriting import FieldTemplates, Substitution, check_fields, check_names
from worker.routing.expressions import compile_expression

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead

log = logging.getLogger("propylon.plugins")

AT_ONCE = 65_536  # bytes of a body, coded or decoded, beyond which it is filtered in a thread
FILTER_TIME = 0.005  # seconds for all filters of a body …
THREAD_TIME = 0.1  # … and in a thread
_OPTIONS = {"i": "i", "m": "m", "s": "s", "x": "x", **dict.fromkeys("adDjJouU", "")}
_STRUCTURED = ("add", "set", "remove")


class Filter(msgspec.Struct):
    """What is replaced in bodies."""

    regex: Annotated[str, msgspec.Meta(min_length=1)]
    replace: str
    scope: Literal["once", "global"] = "once"
    options: str = "jo"

    @property
    def pattern(self) -> str:
        """The pattern with its options in it."""
        flags = "".join(sorted({_OPTIONS[letter] for letter in self.options}))
        anchored = rf"\A(?:{self.regex})" if "a" in self.options else self.regex
        return f"(?{flags}){anchored}" if flags else anchored


class ResponseRewriteConfig(msgspec.Struct):
    """What is changed."""

    status_code: Annotated[int, msgspec.Meta(ge=200, le=598)] | None = None
    body: str | None = None
    body_base64: bool = False
    headers: dict[str, Any] = {}
    vars: list[Any] = []
    filters: Annotated[list[Filter], msgspec.Meta(min_length=1)] | None = None
    max_resp_body_size: Annotated[int, msgspec.Meta(ge=1)] = 64 * 1024 * 1024


class ResponseRewrite(Plugin[ResponseRewriteConfig]):
    """Rewrites answers."""

    name = "response-rewrite"
    priority = 899
    Config = ResponseRewriteConfig

    def __init__(self, config: ResponseRewriteConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._body: bytes | None = None
        if config.body is not None:
            self._body = b64decode(config.body) if config.body_base64 else config.body.encode()
        self._filters = [
            (Substitution(each.pattern, each.replace), int(each.scope == "once")) for each in config.filters or ()
        ]
        self._steps = steps_by_coding() if self._filters else {}
        self._at_once = min(AT_ONCE, config.max_resp_body_size)
        self._loop = scope.services.loop
        self._applies = compile_expression(config.vars, "$.vars") if config.vars else None
        self._fields = FieldTemplates(*parts_of(config.headers))
        if self._body is None and not self._filters:
            self.unused = frozenset(("body_filter",))

    @classmethod
    def check(cls, config: Any) -> None:
        """Check body, filters, expression and fields."""
        if config.body is not None and config.filters is not None:
            raise InvalidResource("$.filters", "body and filters exclude each other")
        if config.body_base64:
            _check_base64(config.body)
        if config.vars:
            compile_expression(config.vars, "$.vars")
        for at, each in enumerate(config.filters or ()):
            for letter in each.options:
                if letter not in _OPTIONS:
                    raise InvalidResource(f"$.filters[{at}].options", f"{letter!r} is no option")
            check_regex(each.pattern, f"$.filters[{at}].regex")
        _check_headers(config.headers)

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Change status and fields."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        if not self.unused:
            run.keep(self, None)
        try:
            if self._applies is not None and not self._applies(exchange):
                return
            lines = self._fields.lines(exchange)
        except BodyNeeded:  # nobody has read the request's body, and it is too late now
            return
        if self.config.status_code is not None:
            head.status = self.config.status_code
        fields, pattern = head.fields, self._fields.pattern
        if self._body is not None:
            head.body_changes()
            fields.remove(b"Content-Encoding")
            run.keep(self, self._body)
        elif self._steps and (coding := (fields.get(b"Content-Encoding") or b"").lower()) in self._steps:
            head.body_changes()
            run.keep(self, Pieces(coding))
        if head.length_changes:
            fields.remove(b"ETag")
            fields.remove(b"Last-Modified")
        if pattern is not None:
            fields.lines = pattern.sub(b"", b"\n" + fields.lines)[1:]
        fields.lines += lines

    def body_filter(self, exchange: "Exchange", data: bytes, is_last: bool) -> "bytes | Awaitable[bytes]":
        """Change the body, once all of it is there."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        kept: bytes | Pieces | None = run.kept(self)
        if isinstance(kept, bytes):
            return kept if is_last else b""
        if kept is None:
            return data
        kept.add(data)
        if kept.size > self.config.max_resp_body_size:
            run.keep(self, None)
            return self._loop.run_in_executor(None, bytes, kept) if kept.size > AT_ONCE else bytes(kept)
        if not is_last:
            return b""
        if kept.size <= self._at_once:
            body = bytes(kept)
            try:
                changed = self._filtered(kept.coding, body, self._at_once, FILTER_TIME)
            except OverflowError:
                pass  # it is small, and becomes large
            else:
                return self._sent(run.head, kept.coding, body, changed)
        return self._filter_later(run.head, kept)

    async def _filter_later(self, head: "ResponseHead | None", kept: "Pieces") -> bytes:
        body, changed = await self._loop.run_in_executor(None, self._filter_in_thread, kept)
        return self._sent(head, kept.coding, body, changed)

    def _filter_in_thread(self, kept: "Pieces") -> tuple[bytes, bytes | None]:
        body = bytes(kept)
        try:
            return body, self._filtered(kept.coding, body, self.config.max_resp_body_size, THREAD_TIME)
        except OverflowError:
            return body, None

    def _filtered(self, coding: bytes, body: bytes, most: int, within: float) -> bytes | None:
        """Return what the filters make of a body; None when they can make nothing of it.

        Raises:
            OverflowError: it is decoded to more bytes than ``most``.
        """
        try:
            text = text_in_steps(self._steps[coding](body), most)
        except ValueError:
            return None
        until = perf_counter() + within
        try:
            for substitution, count in self._filters:
                text = substitution.apply_all(text, count, max(0.000_1, until - perf_counter()))
        except TimeoutError:
            log.warning("%s: response-rewrite: filters take too long on %d bytes", self.scope.key, len(body))
            return None
        return bytes_in_steps(text)

    def _sent(self, head: "ResponseHead | None", coding: bytes, body: bytes, changed: bytes | None) -> bytes:
        """Return what is sent of a body, whose head has not been sent."""
        if changed is None:
            return body
        if coding and head is not None:
            head.fields.remove(b"Content-Encoding")
        return changed


class Pieces:
    """A body that is being collected."""

    __slots__ = ("_pieces", "coding", "size")

    def __init__(self, coding: bytes) -> None:
        self.coding = coding
        self._pieces: list[bytes] = []
        self.size = 0

    def add(self, data: bytes) -> None:
        """Take a piece."""
        self._pieces.append(data)
        self.size += len(data)

    def __bytes__(self) -> bytes:
        """Return all of it."""
        return b"".join(self._pieces)


def _check_base64(body: str | None) -> None:
    try:
        if not body or not b64decode(body, validate=True):
            raise InvalidResource("$.body", "must be given in base64")
    except (Base64Error, ValueError) as error:
        raise InvalidResource("$.body", f"is no base64: {error}") from error


def _check_headers(headers: dict[str, Any]) -> None:
    add, set_, remove = parts_of(headers)
    is_structured = _is_structured(headers)
    check_fields(add, "$.headers.add")
    check_fields(set_, "$.headers.set" if is_structured else "$.headers")
    check_names(remove, "$.headers.remove")
    for name in headers if is_structured else ():
        if name not in _STRUCTURED:
            raise InvalidResource(f"$.headers[{name!r}]", "may not stand beside add, set and remove")


def _is_structured(headers: dict[str, Any]) -> bool:
    return any(isinstance(headers[name], dict | list) for name in _STRUCTURED if name in headers)


def parts_of(headers: dict[str, Any]) -> tuple[dict[str, list[str]], Any, Any]:
    """Return what is added, set and removed; InvalidResource when what is to be added is no ``name: value``."""
    if not _is_structured(headers):
        return {}, headers, ()
    added: dict[str, list[str]] = {}
    for at, line in enumerate(headers.get("add") or ()):
        name, colon, value = line.partition(":") if isinstance(line, str) else ("", "", "")
        if not colon:
            raise InvalidResource(f"$.headers.add[{at}]", "must be name: value")
        added.setdefault(name.strip(), []).append(value.strip())
    return added, headers.get("set") or {}, headers.get("remove") or ()
