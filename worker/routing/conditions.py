"""``vars`` of a route as a condition: compiled, and whether its answer depends on the request's head alone."""

from collections.abc import Iterator, Sequence
from typing import Any

from worker.routing.expressions import compile_expression
from worker.routing.route import Condition

_OF_THE_HEAD = ("arg_", "http_", "cookie_")
_IN_THE_HEAD = frozenset(
    (
        *("uri", "request_uri", "real_request_uri", "args", "query_string", "is_args", "request_method", "method"),
        *("host", "content_length", "content_type", "server_protocol"),
    )
)
_LOGICAL = frozenset(("and", "or", "!and", "!or"))


def compile_condition(expression: Sequence[Any]) -> tuple[Condition | None, bool]:
    """Compile an expression whose form has been checked (routing.md section 6).

    Returns:
        The condition, None when it is always true; and whether equal heads always get equal answers.

    Raises:
        InvalidResource: it cannot be compiled.
    """
    if not expression:
        return None, True
    return compile_expression(expression), all(map(_is_in_head, variables(expression)))


def variables(expression: Sequence[Any]) -> Iterator[str]:
    """Walk the names of the variables in an expression."""
    waiting: list[Sequence[Any]] = [expression]
    while waiting:
        members = waiting.pop()
        if not members:
            continue
        first, *rest = members
        if not isinstance(first, str):
            waiting.extend(members)
        elif first.lower() in _LOGICAL:
            waiting.extend(rest)
        else:
            yield first


def _is_in_head(name: str) -> bool:
    return name in _IN_THE_HEAD or name.startswith(_OF_THE_HEAD)
