"""What a handler of the control interface is given, and what it may return."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec


class Request(msgspec.Struct, frozen=True):
    """A request whose body has been skipped."""

    method: str
    path: str  # percent-decoded
    query: str = ""
    hosts: tuple[str, ...] = ()  # every Host field
    origin: str = ""
    version_11: bool = True
    keep_alive: bool = True
    accept: str = ""


class Answer(msgspec.Struct, frozen=True):
    """A complete answer."""

    status: int
    body: bytes
    fields: tuple[tuple[str, str], ...] = ()


class Portions(msgspec.Struct, frozen=True):
    """A body that is made while it is sent; each step of the iterator takes half a millisecond at most."""

    status: int
    pieces: Iterator[bytes]
    content_type: str = "application/json"


class Pending(msgspec.Struct, frozen=True):
    """An answer that something must happen for; ``poll(now)`` returns it in the end, ``now`` of the loop's clock."""

    poll: Callable[[float], Answer | None]


Outcome = Answer | Portions | Pending


def json_answer(status: int, value: Any, *fields: tuple[str, str]) -> Answer:
    """Answer with JSON."""
    return Answer(status, msgspec.json.encode(value) + b"\n", fields)


def failure(status: int, reason: str, *fields: tuple[str, str]) -> Answer:
    """Answer with an error, in APISIX's form."""
    return json_answer(status, {"error_msg": reason}, *fields)
