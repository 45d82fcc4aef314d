"""Variables of a GraphQL request: the name, the type and the root fields of its first operation.

A document is not parsed but scanned, by one regular expression, and no further than to the end of the first
operation: a full parser of Python takes 7 us a token, and a second for the megabyte that a client may send. On
documents that are valid the two agree, which the tests hold against graphql-core; others are refused by the upstream.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from worker.variables.body import content_type_of, parse_json, read_body
from worker.variables.memo import memo_of
from worker.variables.request import arguments_of
from worker.variables.values import Accessor, Value, text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange

LARGEST_DOCUMENT = 1 << 20  # bytes
MOST_TOKENS = 10_000  # before and in the first operation, without what is in brackets: some milliseconds

# Comments and strings; the closing quotes of a block string are those that no backslash stands before.
_PASSED_OVER = (
    r"#[^\n\r]*"
    r'|"""(?:[^"\\]|\\"""|\\|"(?!""))*+"""'
    r'|"(?:[^"\\\n\r]|\\.)*+"'
    r'|(?P<open>")'
)
_TOKEN = re.compile(_PASSED_OVER + r"|(?P<token>[A-Za-z_][A-Za-z0-9_]*|\.\.\.|[{}()\[\]:$@])")
_BRACKET = re.compile(_PASSED_OVER + r"|(?P<token>[{}()\[\]])")
_TYPES = frozenset(("query", "mutation", "subscription"))
_CLOSING = {"{": "}", "(": ")", "[": "]"}


class Operation(NamedTuple):
    """The first operation of a document."""

    name: str
    type: str
    root_fields: list[str]


class _NotValid(Exception):
    """A token stands where none of its kind may, or there is no end."""


def first_operation(document: str) -> Operation | None:
    """Read the first operation of a document; None when there is none, or it does not end."""
    scan = _Scan(document)
    try:
        while (token := scan.token()) == "fragment":
            scan.skip_to("{")
            scan.skip_group("{")
        if token == "{":
            return Operation("", "query", scan.root_fields())
        return scan.operation(token) if token in _TYPES else None
    except _NotValid:
        return None


class _Scan:
    """A walk over a document, token by token."""

    __slots__ = ("_at", "_document", "_left")

    def __init__(self, document: str) -> None:
        self._document = document
        self._at = 0
        self._left = MOST_TOKENS

    def token(self, pattern: re.Pattern[str] = _TOKEN) -> str:
        """Read the next token that is no string."""
        while (found := pattern.search(self._document, self._at)) is not None:
            self._at = found.end()
            self._left -= 1
            if found["open"] is not None or self._left < 0:
                break
            if found["token"] is not None:
                return found["token"]
        raise _NotValid

    def skip_to(self, wanted: str) -> None:
        """Read up to a token outside of parentheses."""
        while (token := self.token()) != wanted:
            if token == "(":
                self.skip_group(token)

    def skip_group(self, opening: str) -> None:
        """Read up to the token that closes a group."""
        waiting = [_CLOSING[opening]]
        while waiting:
            token = self.token(_BRACKET)
            if token in _CLOSING:
                waiting.append(_CLOSING[token])
            elif token == waiting[-1]:
                waiting.pop()
            else:
                raise _NotValid

    def operation(self, type_: str) -> Operation:
        """Read an operation behind its type."""
        name = ""
        token = self.token()
        if token.isidentifier():
            name, token = token, self.token()
        if token != "{":
            # Variables, whose defaults may be objects, and directives.
            if token in _CLOSING:
                self.skip_group(token)
            self.skip_to("{")
        return Operation(name, type_, self.root_fields())

    def root_fields(self) -> list[str]:
        """Read a selection set that is open; returns the names of its fields, without those of fragments."""
        fields: list[str] = []
        while (token := self.token()) != "}":
            if token in _CLOSING:
                self.skip_group(token)
            elif token == "@":
                self.token()
            elif token == "...":
                self._skip_spread()
            elif token == ":" and fields:
                fields.pop()  # it was an alias
            elif token.isidentifier():
                fields.append(token)
            else:
                raise _NotValid
        return fields

    def _skip_spread(self) -> None:
        """Read what follows three dots, up to its directives or its selection set."""
        token = self.token()
        if token in ("on", "@"):
            self.token()
        elif token == "{":
            self.skip_group(token)


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
