"""Gives every request an id, which upstream and client are told.

The one that the client sends is kept. The field ``header_name`` of the answer is set only where the upstream has not
set it, and not at all without ``include_in_response``.

    algorithm   uuid: random (version 4); uuidv7: with the time in front; nanoid: 21 letters, digits, ``_`` and ``-``;
                ksuid: 27 letters and digits with the time in front; range_id: ``range_id.length`` of the characters
                ``range_id.char_set``
"""

import os
import time
from collections.abc import Callable
from random import SystemRandom
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID, uuid4

import msgspec

from config_sync.errors import InvalidResource
from worker.edited_request import edit
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import check_field

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BASE62 = "0123456789" + _LETTERS.upper() + _LETTERS
_URL_SAFE = _BASE62 + "_-"
_KSUID_EPOCH = 1_400_000_000
_KSUID_LENGTH = 27
_NANOID_LENGTH = 21
_random = SystemRandom()


class RangeId(msgspec.Struct):
    """Of what ids are made with ``range_id``."""

    char_set: Annotated[str, msgspec.Meta(min_length=6, max_length=1024)] = _LETTERS.upper() + _LETTERS + "0123456789"
    length: Annotated[int, msgspec.Meta(ge=6, le=1024)] = 16


class RequestIdConfig(msgspec.Struct):
    """Where the id is sent, and how it is made."""

    header_name: Annotated[str, msgspec.Meta(min_length=1)] = "X-Request-Id"
    include_in_response: bool = True
    algorithm: Literal["uuid", "nanoid", "range_id", "ksuid", "uuidv7"] = "uuid"
    range_id: RangeId = msgspec.field(default_factory=RangeId)


class RequestId(Plugin[RequestIdConfig]):
    """Sets a field of the request, and of the answer."""

    name = "request-id"
    priority = 12015
    Config = RequestIdConfig

    def __init__(self, config: RequestIdConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._field = config.header_name.encode()
        self._make = _range_id(config.range_id) if config.algorithm == "range_id" else MAKERS[config.algorithm]

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that the id can be sent in the field."""
        check_field(config.header_name, "", "$.header_name")
        if config.header_name.lower() == "host":
            raise InvalidResource("$.header_name", "field Host chooses the server and cannot be set")
        check_field("X-Request-Id", config.range_id.char_set, "$.range_id.char_set")

    def rewrite(self, exchange: "Exchange") -> None:
        """Give the request an id."""
        request, run = exchange.request, exchange.run
        assert request is not None and run is not None  # noqa: S101, PT018 - hooks run in one
        found = request.header(self._field)
        if found is None:
            found = self._make().encode()
            edit(exchange).set_field(self._field, found)
        if self.config.include_in_response:
            run.keep(self, found)

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Tell the client."""
        found = exchange.run.kept(self) if exchange.run is not None else None
        if found is not None and self._field not in head.fields:
            head.fields.add(self._field, found)


def uuid_v7() -> str:
    """Make a UUID that begins with the milliseconds since 1970 (RFC 9562 section 5.7)."""
    number = int.from_bytes((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10), "big")
    number = number & ~(0xF << 76) | 7 << 76
    return str(UUID(int=number & ~(3 << 62) | 2 << 62))


def ksuid() -> str:
    """Make an id of four bytes of seconds and sixteen random ones, in base 62."""
    number = int.from_bytes((int(time.time()) - _KSUID_EPOCH).to_bytes(4, "big") + os.urandom(16), "big")
    digits = []
    for _ in range(_KSUID_LENGTH):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


def nanoid() -> str:
    """Make an id of random characters that may stand in a URI."""
    return "".join([_URL_SAFE[byte & 63] for byte in os.urandom(_NANOID_LENGTH)])


def _range_id(range_id: RangeId) -> Callable[[], str]:
    return lambda: "".join(_random.choices(range_id.char_set, k=range_id.length))


MAKERS: dict[str, Callable[[], str]] = {
    "uuid": lambda: str(uuid4()),
    "nanoid": nanoid,
    "ksuid": ksuid,
    "uuidv7": uuid_v7,
}
"""By algorithm, what makes an id."""
