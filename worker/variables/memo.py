"""Memo: what has been found out about an exchange at some expense, or was set by a plugin."""

from typing import TYPE_CHECKING, Any

from worker.variables.values import Value

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.variables.graphql import Operation


class Memo:
    """Kept by an exchange from the first variable that needs it; None where nobody has asked yet."""

    __slots__ = ("assigned", "body", "graphql", "is_body_read", "is_graphql_read", "request_id")

    def __init__(self) -> None:
        self.assigned: dict[str, Value] | None = None  # by name, what plugins have set
        self.body: Any = None  # its fields
        self.is_body_read = False
        self.graphql: Operation | None = None
        self.is_graphql_read = False
        self.request_id = ""


def memo_of(exchange: "Exchange") -> Memo:
    """Return the memo of an exchange, a new one at first."""
    memo = exchange.memo
    if memo is None:
        memo = exchange.memo = Memo()
    return memo


def assign(exchange: "Exchange", name: str, value: Value) -> None:
    """Set a variable that the gateway itself has no value for, as ``consumer_name`` after authentication."""
    memo = memo_of(exchange)
    if memo.assigned is None:
        memo.assigned = {}
    memo.assigned[name] = value
