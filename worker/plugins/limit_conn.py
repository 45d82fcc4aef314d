"""Limits how many requests are under way at the same moment.

    conn                how many may be
    burst               how many more may be, but these begin later: ``default_conn_delay`` seconds for the first
                        ``conn`` that are too much, twice that for the next ``conn``, and so on
    key, key_type       what is counted: a variable (``var``) or a template (``var_combination``)
    rules               instead of these: an array of {conn, burst, key}, whose keys are templates. All apply in order;
                        one whose key has no variable with a value is passed over
    rejected_code       of the answer to what is too much (503), ``rejected_msg`` its ``error_msg``
    policy              where is counted: ``local``, all workers of this node together

A key without a value is the client's address. What is counted is given back when the exchange is over, however it has
ended; what a worker held that has died is given back by the master. Delays below a millisecond are left out.
``only_use_default_delay`` changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.limiting.keys import KeyType, combination_of, counter_name, encoded, key_of, refusal
from worker.plugins.limiting.patience import patiently
from worker.shared_state.counters import Held
from worker.shared_state.locks import Busy

if TYPE_CHECKING:
    from worker.exchange import Exchange

LEAST_DELAY = 0.001  # seconds
Conn = Annotated[int, msgspec.Meta(ge=1)]
Burst = Annotated[int, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(min_length=1)]


class Rule(msgspec.Struct):
    """One of several limits."""

    conn: Conn
    burst: Burst
    key: Name


class LimitConnConfig(msgspec.Struct, kw_only=True):
    """How many requests, of whom."""

    conn: Conn | None = None
    burst: Burst | None = None
    default_conn_delay: Annotated[float, msgspec.Meta(gt=0)]
    key: Name | None = None
    key_type: KeyType = "var"
    rules: Annotated[list[Rule], msgspec.Meta(min_length=1)] | None = None
    only_use_default_delay: bool = False
    rejected_code: Annotated[int, msgspec.Meta(ge=200, le=599)] = 503
    rejected_msg: Name | None = None
    policy: Literal["local"] = "local"
    allow_degradation: bool = False


class Limit(NamedTuple):
    """One limit, compiled."""

    conn: int
    burst: int
    key: Any  # returns the key of a request, or None
    prefix: str


class Under(NamedTuple):
    """A limit that a request comes under, with the name of its counter."""

    limit: Limit
    name: bytes


class Taken:
    """What an exchange has taken, and is to wait for it."""

    __slots__ = ("delay", "held", "seen")

    def __init__(self) -> None:
        self.delay = 0.0
        self.held: list[Held] = []
        self.seen = 0  # how many limits it has come under


class LimitConn(Plugin[LimitConnConfig]):
    """Counts requests that are under way."""

    name = "limit-conn"
    priority = 1003
    Config = LimitConnConfig

    def __init__(self, config: LimitConnConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._limits = _limits(config, f"limit-conn:{counter_name(scope)}")
        self._unit = config.default_conn_delay
        self._refusal = refusal(config.rejected_code, config.rejected_msg)
        self._counters = scope.services.counters

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that there is one limit or several."""
        single = [getattr(config, name) is not None for name in ("conn", "burst", "key")]
        if config.rules is None:
            if not all(single):
                raise InvalidResource("$", "conn, burst and key, or rules, must be given")
            return
        if any(single):
            raise InvalidResource("$.rules", "cannot be given with conn, burst or key")
        keys = [rule.key for rule in config.rules]
        for at, key in enumerate(keys):
            if key in keys[:at]:
                raise InvalidResource(f"$.rules[{at}].key", "another rule has the same key")

    def access(self, exchange: "Exchange") -> Answer | Awaitable[Answer | None] | None:
        """Count a request in, refuse it, or let it wait."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        if run.kept(LimitConn):  # done by a workflow
            return None
        keys = [(limit, limit.key(exchange)) for limit in self._limits]
        under = [Under(limit, encoded(f"{limit.prefix}:{key}")) for limit, key in keys if key is not None]
        taken = Taken()
        run.keep(self, taken)
        try:
            answer = self._take(under, taken, True)
        except Busy:
            return self._later(under, taken)
        if answer is not None or taken.delay < LEAST_DELAY:
            return answer
        return asyncio.sleep(taken.delay)

    async def _later(self, under: Sequence[Under], taken: Taken) -> Answer | None:
        """Decide when nobody is in the way any more."""
        answer = await patiently(lambda patient: self._take(under, taken, patient))
        if answer is None and taken.delay >= LEAST_DELAY:
            await asyncio.sleep(taken.delay)
        return answer

    def _take(self, under: Sequence[Under], taken: Taken, patient: bool) -> Answer | None:
        for limit, name in under[taken.seen :]:
            active, held = self._counters.hold(name, patient)
            taken.seen += 1
            if active > limit.conn + limit.burst:
                self._counters.let_go(held)
                return self._refusal
            taken.held.append(held)
            taken.delay += self._unit * ((active - 1) // limit.conn)
        return None

    def log(self, exchange: "Exchange") -> None:
        """Count a request out."""
        assert exchange.run is not None  # noqa: S101 - hooks run in one
        taken: Taken | None = exchange.run.kept(self)
        for held in taken.held if taken is not None else ():
            self._counters.let_go(held)


def _limits(config: LimitConnConfig, prefix: str) -> list[Limit]:
    if config.rules is None:
        assert config.conn is not None and config.burst is not None and config.key is not None  # noqa: S101, PT018
        return [Limit(config.conn, config.burst, key_of(config.key, config.key_type), prefix)]
    return [
        Limit(rule.conn, rule.burst, combination_of(rule.key), f"{prefix}:{number}")
        for number, rule in enumerate(config.rules, 1)
    ]
