"""Delays requests, or answers them with an error, to see what becomes of it.

    abort   http_status, body, headers; the last two may hold variables
    delay   duration: seconds

Both have ``percentage`` of the requests that are hit (without it: all) and ``vars``, an array of expressions of which
one must be true. The delay comes first. Control characters that variables bring into fields become spaces.
"""

import asyncio
from random import random
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import check_field, field_value
from worker.routing.expressions import compile_expression
from worker.variables import Template

if TYPE_CHECKING:
    from worker.exchange import Exchange

Percentage = Annotated[int, msgspec.Meta(ge=0, le=100)]


class Abort(msgspec.Struct):
    """What is answered."""

    http_status: Annotated[int, msgspec.Meta(ge=200, le=599)]
    body: str | None = None
    headers: dict[str, str | int | float] = {}
    percentage: Percentage | None = None
    vars: list[list[Any]] = []


class Delay(msgspec.Struct):
    """How long is waited."""

    duration: Annotated[float, msgspec.Meta(ge=0)]
    percentage: Percentage | None = None
    vars: list[list[Any]] = []


class FaultInjectionConfig(msgspec.Struct):
    """What happens to requests."""

    abort: Abort | None = None
    delay: Delay | None = None


class FaultInjection(Plugin[FaultInjectionConfig]):
    """Waits, then answers."""

    name = "fault-injection"
    priority = 11000
    Config = FaultInjectionConfig

    def __init__(self, config: FaultInjectionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        abort, delay = config.abort, config.delay
        self._aborts = _Chance(abort, "$.abort") if abort is not None else None
        self._delays = _Chance(delay, "$.delay") if delay is not None else None
        self._seconds = delay.duration if delay is not None else 0.0
        self._status = abort.http_status if abort is not None else 0
        self._body = Template(abort.body) if abort is not None and abort.body is not None else None
        headers = abort.headers if abort is not None else {}
        self._headers = [(name.encode(), Template(str(value))) for name, value in headers.items()]
        if self._delays is not None:
            self.rewrite = self._late_rewrite  # type: ignore[assignment,method-assign]  # a Task for those alone

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that something is to happen, and what."""
        if config.abort is None and config.delay is None:
            raise InvalidResource("$", "abort or delay must be given")
        for name in ("abort", "delay"):
            if (fault := getattr(config, name)) is not None:
                _Chance(fault, f"$.{name}")
        for name, value in config.abort.headers.items() if config.abort is not None else ():
            check_field(name, str(value), f"$.abort.headers[{name!r}]")

    def rewrite(self, exchange: "Exchange") -> Answer | None:
        """Answer."""
        return self._answer(exchange) if self._is_hit(exchange)[0] else None

    async def _late_rewrite(self, exchange: "Exchange") -> Answer | None:
        """Wait, then answer; what needs the body is done before, for afterwards all would begin again."""
        is_aborted, is_delayed = self._is_hit(exchange)
        answer = self._answer(exchange) if is_aborted else None
        if is_delayed:
            await asyncio.sleep(self._seconds)
        return answer

    def _is_hit(self, exchange: "Exchange") -> tuple[bool, bool]:
        """Tell whether a request is answered, and whether it is delayed; once for each request."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        verdict: tuple[bool, bool] | None = run.kept(self)
        if verdict is None:
            aborts, delays = self._aborts, self._delays
            verdict = aborts is not None and aborts(exchange), delays is not None and delays(exchange)
            run.keep(self, verdict)
        return verdict

    def _answer(self, exchange: "Exchange") -> Answer:
        body = self._body.render(exchange).encode("utf-8", "surrogateescape") if self._body is not None else None
        fields = [(name, field_value(value.render(exchange))) for name, value in self._headers]
        return Answer(self._status, body, fields)


class _Chance:
    """Whether a fault hits a request."""

    __slots__ = ("_conditions", "_percentage")

    def __init__(self, fault: Abort | Delay, path: str) -> None:
        self._percentage = fault.percentage
        self._conditions = [compile_expression(each, f"{path}.vars[{at}]") for at, each in enumerate(fault.vars)]

    def __call__(self, exchange: "Exchange") -> bool:
        # The conditions first: the dice must not be cast again when they need the body.
        if self._conditions and not any(holds(exchange) for holds in self._conditions):
            return False
        return self._percentage is None or random() * 100 < self._percentage  # noqa: S311 - no secret
