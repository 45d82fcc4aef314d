"""Variables of a GraphQL request: the name, the type and the root fields of its first operation.

A document is not parsed but scanned, by one regular expression, and no further than to the end of the first
operation: a full parser of Python takes 7 us a token, and a second for the megabyte that a client may send. On
documents that are valid the two agree, which the tests hold against graphql-core; others are refused by the upstream.
"""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from worker.variables.body import content_type_of, parse_json, read_body
from worker.variables.memo import memo_of
from worker.variables.request import arguments_of
from worker.variables.values import Accessor, Value, text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

LARGEST_DOCUMENT = 1 << 20  # bytes

# The block string's closing quotes are those that no backslash stands before.
_TOKEN = re.compile(
    r"#[^\n\r]*"
    r'|"""(?:[^"\\]|\\"""|\\|"(?!""))*+"""'
    r'|"(?:[^"\\\n\r]|\\.)*+"'
    r"|(?P<token>[A-Za-z_][A-Za-z0-9_]*|\.\.\.|[{}()\[\]:$@])"
    r'|(?P<open>")'
)
_TYPES = frozenset(("query", "mutation", "subscription"))
_CLOSING = {"{": "}", "(": ")", "[": "]"}


class Operation(NamedTuple):
    """The first operation of a document."""

    name: str
    type: str
    root_fields: list[str]


class _NotValid(Exception):
    """A token stands where none of its kind may."""


def first_operation(document: str) -> Operation | None:
    """Read the first operation of a document; None when there is none, or it does not end."""
    tokens = _tokens(document)
    try:
        for token in tokens:
            if token == "{":
                return Operation("", "query", _root_fields(tokens))
            if token in _TYPES:
                return _operation(token, tokens)
            if token != "fragment":
                return None
            _skip_to(tokens, "{")
            _skip_group(tokens, "{")
    except (StopIteration, _NotValid):
        return None
    return None


def _tokens(document: str) -> Iterator[str]:
    for found in _TOKEN.finditer(document):
        token = found["token"]
        if token is not None:
            yield token
        elif found["open"] is not None:
            return  # a string that does not end


def _operation(type_: str, tokens: Iterator[str]) -> Operation:
    name = ""
    token = next(tokens)
    if token.isidentifier():
        name, token = token, next(tokens)
    if token != "{":
        # Variables, whose defaults may be objects, and directives.
        if token in _CLOSING:
            _skip_group(tokens, token)
        _skip_to(tokens, "{")
    return Operation(name, type_, _root_fields(tokens))


def _skip_to(tokens: Iterator[str], wanted: str) -> None:
    """Read up to a token outside of parentheses."""
    while (token := next(tokens)) != wanted:
        if token == "(":
            _skip_group(tokens, token)


def _skip_group(tokens: Iterator[str], opening: str) -> None:
    """Read up to the token that closes a group."""
    waiting = [_CLOSING[opening]]
    while waiting:
        token = next(tokens)
        if token in _CLOSING:
            waiting.append(_CLOSING[token])
        elif token == waiting[-1]:
            waiting.pop()
        elif token in ("}", ")", "]"):
            raise _NotValid


def _root_fields(tokens: Iterator[str]) -> list[str]:
    """Read a selection set that is open, and return the names of its fields; those of fragments are not among them."""
    fields: list[str] = []
    while (token := next(tokens)) != "}":
        if token in _CLOSING:
            _skip_group(tokens, token)
        elif token == "@":
            next(tokens)
        elif token == "...":
            _skip_spread(tokens)
        elif token == ":" and fields:
            fields.pop()  # it was an alias
        elif token.isidentifier():
            fields.append(token)
        else:
            raise _NotValid
    return fields


def _skip_spread(tokens: Iterator[str]) -> None:
    """Read what follows three dots, up to its directives or its selection set."""
    token = next(tokens)
    if token in ("on", "@"):
        next(tokens)
    elif token == "{":
        _skip_group(tokens, token)


def operation_of(exchange: "Exchange") -> Operation | None:
    """Return the operation a request asks for, in its query or its body."""
    memo = memo_of(exchange)
    if not memo.is_graphql_read:
        document = _document(exchange)
        memo.graphql = first_operation(document) if document is not None else None
        memo.is_graphql_read = True
    return memo.graphql


def _document(exchange: "Exchange") -> str | None:
    request = exchange.request
    if request is None:
        return None
    document: Value | None = None
    if request.method == b"GET":
        document = arguments_of(request).get("query")
    elif request.method == b"POST":
        body = read_body(exchange, LARGEST_DOCUMENT)
        if body and content_type_of(exchange).startswith("application/graphql"):
            return text_of(body)
        fields = parse_json(body) if body else None
        document = fields.get("query") if isinstance(fields, dict) else None
    return document if isinstance(document, str) and len(document) <= LARGEST_DOCUMENT else None


def _part(part: Callable[[Operation], Value]) -> Accessor:
    def operation_part(exchange: "Exchange") -> Value | None:
        operation = operation_of(exchange)
        return part(operation) if operation is not None else None

    return operation_part


NAMES: dict[str, Accessor] = {
    "graphql_name": _part(lambda operation: operation.name),
    "graphql_operation": _part(lambda operation: operation.type),
    "graphql_root_fields": _part(lambda operation: operation.root_fields),
}
