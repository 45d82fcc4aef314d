"""From the name of a variable to the function that returns its value."""

from functools import lru_cache
from typing import TYPE_CHECKING

from worker.variables import body, graphql, request, response
from worker.variables.values import Accessor, Value

if TYPE_CHECKING:
    from worker.exchange import Exchange

# The order of routing.md section 7: post_arg.x is no argument of the query, and arg_http_x no header.
PREFIXES = (
    ("arg_", request.argument),
    ("http_", request.header),
    ("cookie_", request.cookie),
    ("post_arg_", body.form_field),
    ("post_arg.", body.field_at),
    ("uri_param_", request.capture),
    ("sent_http_", response.sent_header),
    ("upstream_http_", response.upstream_header),
)

NAMES: dict[str, Accessor] = {**request.NAMES, **response.NAMES, **graphql.NAMES, "request_body": body.whole}


@lru_cache(maxsize=4096)
def accessor(name: str) -> Accessor:
    """Return the function for a variable; a name that is not known is missing, unless a plugin sets it.

    The functions raise BodyNeeded when they want to see a body that has not been read.
    """
    known = NAMES.get(name)
    if known is not None:
        return known
    for prefix, make in PREFIXES:
        if name.startswith(prefix):
            return make(name[len(prefix) :])
    return _assigned(name)


def _assigned(name: str) -> Accessor:
    def assigned(exchange: "Exchange") -> Value | None:
        memo = exchange.memo
        return memo.assigned.get(name) if memo is not None and memo.assigned is not None else None

    return assigned
