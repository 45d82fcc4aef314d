"""Variables of the request's body: ``post_arg_<name>``, ``post_arg.<path>``, ``request_body``.

The body is parsed once per exchange, in one step of the event loop, which the setting ``max_post_args_readable_size``
bounds. A thread would not help: msgspec, like json, holds the GIL from beginning to end, and the loop stands still as
long. So a large JSON body is only cut into its members, 1.5 to 2.5 ms a megabyte instead of 7 to 9, and a member is
built when it is asked for.
"""

import logging
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from worker.errors import BodyNeeded
from worker.messages import Framing
from worker.variables.memo import memo_of
from worker.variables.request import header, parse_arguments
from worker.variables.values import Accessor, Value, text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

log = logging.getLogger("propylon.variables")

MOST_BUILT = 131_072  # bytes of JSON that are built as a whole: about 1 ms
MOST_FIELDS = 1_000  # of a form; each costs up to 4 us
MOST_PARTS = 250  # of a multipart body; each costs about 15 us
FORM = "application/x-www-form-urlencoded"

_content_type = header("content_type")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^;,\s"]{1,70}))', re.IGNORECASE)


def read_body(exchange: "Exchange", limit: int = 0) -> bytes | None:
    """Return the request's body; None when it is larger than ``limit`` bytes, or is gone.

    Without a limit that of ``max_post_args_readable_size`` holds.

    Raises:
        BodyNeeded: it has not been read yet.
    """
    request = exchange.request
    if request is None:
        return None
    limit = limit or exchange.downstream.context.settings.max_post_args_readable_size or sys.maxsize
    body = exchange.buffered_body
    if body is not None:
        return body if len(body) <= limit else None
    if request.framing is Framing.NONE:
        return b""
    if request.content_length > limit or exchange.status or exchange.error is not None:
        return None
    raise BodyNeeded(limit)


def whole(exchange: "Exchange") -> str | None:
    """Return the body as text; missing when there is none."""
    body = read_body(exchange)
    return text_of(body) if body else None


def content_type_of(exchange: "Exchange") -> str:
    """Return the Content-Type in lower case, empty when there is none."""
    found = _content_type(exchange)
    return found.lower() if isinstance(found, str) else ""


def parse_json(body: bytes | msgspec.Raw) -> Any:
    """Read JSON; None when it is none."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def cut_json(body: bytes) -> Any:
    """Read a JSON body, of which the members of a large object are left as they are; None when it is none."""
    if len(body) <= MOST_BUILT:
        return parse_json(body)
    try:
        body.decode()  # what is passed over is not looked at otherwise
        return _members.decode(body)
    except msgspec.ValidationError:
        return parse_json(body)  # no object
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _member(fields: dict[str, Any], name: str) -> Any:
    """Return a member, which is built the first time."""
    value = fields.get(name)
    if isinstance(value, msgspec.Raw):
        value = fields[name] = parse_json(value)
    return value


def parse_form(body: bytes) -> dict[str, Value] | None:
    """Read a urlencoded body: the first value of each name; None when it has too many fields."""
    return parse_arguments(text_of(body)) if body.count(b"&") < MOST_FIELDS else None


def parse_multipart(body: bytes, content_type: str) -> dict[str, Value] | None:
    """Read a multipart body: the content of the first part of each name; None when it cannot be read."""
    from multipart import MultipartError, MultipartSegment, PushMultipartParser

    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        return None
    found: dict[str, Value] = {}
    name: str | None = None
    pieces: list[bytes] = []
    try:
        with PushMultipartParser(boundary[1] or boundary[2], len(body), max_segment_count=MOST_PARTS) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    name, pieces = event.name, []
                elif event:
                    pieces.append(bytes(event))
                elif name is not None:
                    found.setdefault(name, text_of(b"".join(pieces)))
    except (MultipartError, ValueError):
        return None
    return found


def fields_of(exchange: "Exchange") -> Any:
    """Return what the body holds, read as its Content-Type says; None when that cannot be done."""
    memo = exchange.memo
    if memo is not None and memo.is_body_read:
        return memo.body
    content_type = content_type_of(exchange)
    parse: Callable[[bytes], Any]
    if content_type.startswith("application/json"):
        parse = cut_json
    elif content_type.startswith(FORM):
        parse = parse_form
    elif content_type.startswith("multipart/form-data"):
        # A boundary has upper and lower case.
        parse = lambda body: parse_multipart(body, cast("str", _content_type(exchange)))  # noqa: E731
    else:
        return None
    body = read_body(exchange)
    memo = memo_of(exchange)
    memo.body = parse(body) if body else None
    memo.is_body_read = True
    return memo.body


def form_field(name: str) -> Accessor:
    """Make the function for ``post_arg_<name>``."""

    def form_value(exchange: "Exchange") -> Value | None:
        if not content_type_of(exchange).startswith(FORM):
            return None
        fields = fields_of(exchange)
        return fields.get(name) if isinstance(fields, dict) else None

    return form_value


def field_at(path: str) -> Accessor:
    """Make the function for ``post_arg.<path>``: names joined by dots, or a JSONPath, which finds an array."""
    if "[" in path or "*" in path or ".." in path:
        return _found_by(path)
    names = path.split(".")

    def field_value(exchange: "Exchange") -> Value | None:
        value = fields_of(exchange)
        for name in names:
            if not isinstance(value, dict):
                return None
            value = _member(value, name)
        return cast("Value | None", value)

    return field_value


def _found_by(path: str) -> Accessor:
    import jsonpath

    written = path if path.startswith("$") else f"${path}" if path.startswith(("[", "..")) else f"$.{path}"
    try:
        find = jsonpath.compile(written).findall
    except jsonpath.JSONPathError as error:
        log.warning("variable post_arg.%s is always missing: it is no JSONPath: %s", path, str(error).splitlines()[0])
        return lambda _: None

    def values_found(exchange: "Exchange") -> Value | None:
        fields = fields_of(exchange)
        if not isinstance(fields, dict | list):
            return None
        if isinstance(fields, dict):
            for name in fields:
                _member(fields, name)
        try:
            return find(fields) or None
        except (jsonpath.JSONPathError, RecursionError):
            return None

    return values_found
