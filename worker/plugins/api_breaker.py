"""Keeps requests from an upstream that fails, for a while.

    break_response_code     answered meanwhile, with ``break_response_body`` and ``break_response_headers``
                            (an array of {key, value}; only with a body; values may hold variables)
    unhealthy               http_statuses (500 to 599, by default 500), and after how many ``failures`` (3) the circuit
                            opens: at each multiple of them, for 2 seconds, then 4, 8, …
    max_breaker_sec         it is never open for longer (300)
    healthy                 http_statuses (200 to 499, by default 200), and after how many ``successes`` (3) with no
                            failure between them all failures are forgotten

What counts is the last status that came from the upstream, for each host and path, in all workers together. Failures
are forgotten, too, when twice ``max_breaker_sec`` pass without one.
"""

from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import check_field, field_value
from worker.plugins.limiting.patience import PAUSE, ROUNDS
from worker.shared_state.locks import Busy
from worker.variables import Template

if TYPE_CHECKING:
    from worker.exchange import Exchange

Times = Annotated[int, msgspec.Meta(ge=1)]
BadStatuses = Annotated[list[Annotated[int, msgspec.Meta(ge=500, le=599)]], msgspec.Meta(min_length=1)]
GoodStatuses = Annotated[list[Annotated[int, msgspec.Meta(ge=200, le=499)]], msgspec.Meta(min_length=1)]
_STATE = Struct("=IIq")  # failures, successes since, until when the circuit is open (nanoseconds)
_MOST = (1 << 32) - 1


class Header(msgspec.Struct):
    """A field of the answer."""

    key: Annotated[str, msgspec.Meta(min_length=1)]
    value: Annotated[str, msgspec.Meta(min_length=1)]


class Unhealthy(msgspec.Struct):
    """What is a failure, and how many are too many."""

    http_statuses: BadStatuses = msgspec.field(default_factory=lambda: [500])
    failures: Times = 3


class Healthy(msgspec.Struct):
    """What is a success, and how many are enough."""

    http_statuses: GoodStatuses = msgspec.field(default_factory=lambda: [200])
    successes: Times = 3


class ApiBreakerConfig(msgspec.Struct):
    """When the circuit opens, and what is answered then."""

    break_response_code: Annotated[int, msgspec.Meta(ge=200, le=599)]
    break_response_body: str | None = None
    break_response_headers: list[Header] = []
    max_breaker_sec: Annotated[int, msgspec.Meta(ge=3)] = 300
    unhealthy: Unhealthy = msgspec.field(default_factory=Unhealthy)
    healthy: Healthy = msgspec.field(default_factory=Healthy)


class ApiBreaker(Plugin[ApiBreakerConfig]):
    """Opens and closes circuits."""

    name = "api-breaker"
    priority = 1005
    Config = ApiBreakerConfig

    def __init__(self, config: ApiBreakerConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        body, headers = config.break_response_body, config.break_response_headers
        self._body = body.encode() if body is not None else None
        self._headers = [(header.key.encode(), Template(header.value)) for header in headers if body is not None]
        self._bad = frozenset(config.unhealthy.http_statuses)
        self._good = frozenset(config.healthy.http_statuses)
        self._prefix = f"api-breaker:{scope.key}:".encode()
        self._ttl = 2.0 * config.max_breaker_sec
        self._notes = scope.services.notes

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that the fields can be sent."""
        for at, header in enumerate(config.break_response_headers):
            check_field(header.key, header.value, f"$.break_response_headers[{at}]")

    def access(self, exchange: "Exchange") -> Answer | None:
        """Answer while the circuit is open."""
        note = self._notes.get(self._key(exchange))
        if not note or _STATE.unpack(note)[2] <= self._notes.now():
            return None
        fields = [(name, field_value(value.render(exchange))) for name, value in self._headers]
        return Answer(self.config.break_response_code, self._body, fields)

    def log(self, exchange: "Exchange") -> None:
        """Count failures, and successes where there were failures."""
        status = _upstream_status(exchange)
        if status in self._bad:
            self._note(self._key(exchange), self._failed)
        elif status in self._good:
            key = self._key(exchange)
            if self._notes.get(key):
                self._note(key, self._succeeded)

    def _key(self, exchange: "Exchange") -> bytes:
        request = exchange.request
        assert request is not None  # noqa: S101 - only requests that were read come to plugins
        return b"%b%b%b" % (self._prefix, request.host, request.path)

    def _note(self, key: bytes, change: Any, tries: int = ROUNDS) -> None:
        """Change what is noted; later, when somebody else does so now."""
        try:
            self._notes.update(key, change, self._ttl, patient=tries > 0)
        except Busy:
            self.scope.services.loop.call_later(PAUSE, partial(self._note, key, change, tries - 1))

    def _failed(self, note: bytes | None) -> bytes:
        failures, _, until = _STATE.unpack(note) if note else (0, 0, 0)
        failures = min(failures + 1, _MOST)
        opened, rest = divmod(failures, self.config.unhealthy.failures)
        if not rest:
            most = self.config.max_breaker_sec
            until = self._notes.now() + int((min(2**opened, most) if opened < 32 else most) * 1e9)
        return _STATE.pack(failures, 0, until)

    def _succeeded(self, note: bytes | None) -> bytes:
        if not note:
            return b""
        failures, successes, until = _STATE.unpack(note)
        if successes + 1 >= self.config.healthy.successes:
            return b""
        return _STATE.pack(failures, successes + 1, until)


def _upstream_status(exchange: "Exchange") -> int | None:
    """Return the last status that came from the upstream, or that stands for its failure."""
    response = exchange.connection.response if exchange.connection is not None else None
    if response is not None:
        return response.status
    return exchange.attempts[-1] if exchange.attempts else None
