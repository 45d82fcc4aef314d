"""What is counted: the part of a counter's name that a request decides."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from worker.plugins.answer import Answer, error_message
from worker.plugins.base import Scope
from worker.variables import Template, accessor
from worker.variables.request import remote_address
from worker.variables.values import shown

if TYPE_CHECKING:
    from worker.exchange import Exchange

KeyType = Literal["var", "var_combination"]
KeyOf = Callable[["Exchange"], str]


def key_of(key: str, kind: str) -> KeyOf:
    """Compile what returns the key of a request: a variable's value, a template, or a text that is always the same.

    Where nothing of it has a value, the client's address takes its place.
    """
    if kind == "constant":
        return lambda _: key
    if kind == "var_combination":
        combined = combination_of(key)
        return lambda exchange: combined(exchange) or exchange.remote_address
    if key == "remote_addr":  # the usual one, which is always there
        return remote_address
    get = accessor(key)

    def value_of(exchange: "Exchange") -> str:
        value = get(exchange)
        return exchange.remote_address if value is None else shown(value)

    return value_of


def combination_of(text: str) -> "Callable[[Exchange], str | None]":
    """Compile a template; of a request in which none of its variables has a value it makes None."""
    template = Template(text)

    def value_of(exchange: "Exchange") -> str | None:
        value, resolved = template.resolve(exchange)
        return value if resolved else None

    return value_of


def counter_name(scope: Scope, *parts: str) -> str:
    """Return how the name of a counter begins (plugins.md section 5): the configuration it belongs to."""
    return ":".join((scope.key, scope.fingerprint, *parts))


def encoded(name: str) -> bytes:
    """Return the bytes of a name, whatever the request has brought into it."""
    return name.encode("utf-8", "surrogateescape")


def refusal(code: int, text: str | None) -> Answer:
    """Return what is answered to a request that is too much."""
    return Answer(code) if text is None else error_message(code, text)
