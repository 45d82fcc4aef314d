"""Limits how many requests are under way at the same moment.

    conn                how many may be
    burst               how many more may be, but these begin later: ``default_conn_delay`` seconds for the first
                        ``conn`` that are too much, twice that for the next ``conn``, and so on
    key, key_type       what is counted: a variable (``var``) or a template (``var_combination``)
    rules               instead of these: an array of {conn, burst, key}, whose keys are templates. All apply in order;
                        one whose key has no variable with a value is passed over
    rejected_code       of the answer to what is too much (503), ``rejected_msg`` its ``error_msg``
    policy              where is counted: ``local``, all workers of this node together; or ``redis``, ``redis-cluster``,
                        with the fields of limit-count
    key_ttl             seconds after which a Redis forgets a request that has not been seen to end (3600)
    allow_degradation   when it cannot be counted, requests pass; else they get 500

A key without a value is the client's address. What is counted is given back when the exchange is over, however it has
ended; what a worker held that has died is given back by the master. Delays below a millisecond are left out.
``only_use_default_delay`` changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from secrets import token_bytes
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec

from config_sync.errors import InvalidResource
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.limiting.keys import KeyType, combination_of, counter_name, encoded, key_of, refusal
from worker.plugins.limiting.patience import patiently
from worker.plugins.limiting.redis_client import RedisFailed, client_of
from worker.plugins.limiting.redis_config import RedisConfig, check_redis
from worker.plugins.limiting.redis_counts import RedisCounts
from worker.shared_state.counters import REFUSED, Held
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


class LimitConnConfig(RedisConfig, kw_only=True):
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
    key_ttl: Annotated[int, msgspec.Meta(ge=1)] = 3600


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

    __slots__ = ("delay", "held", "remote", "seen")

    def __init__(self) -> None:
        self.delay = 0.0
        self.held: list[Held] = []
        self.remote: list[tuple[bytes, bytes]] = []  # names in a Redis, and what stands there for this exchange
        self.seen = 0  # how many limits it has come under


class LimitConn(Plugin[LimitConnConfig]):
    """Counts requests that are under way."""

    name = "limit-conn"
    priority = 1003
    Config = LimitConnConfig

    def __init__(self, config: LimitConnConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._redis = client_of(config, scope.services) if config.policy != "local" else None
        self._remote = RedisCounts(self._redis) if self._redis is not None else None
        prefix = counter_name(scope) if self._redis is not None else f"limit-conn:{counter_name(scope)}"
        self._limits = _limits(config, prefix)
        self._unit = config.default_conn_delay
        self._refusal = refusal(config.rejected_code, config.rejected_msg)
        self._counters = scope.services.counters

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that there is one limit or several, and where is counted."""
        check_redis(config)
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
        if self._remote is not None:
            return self._take_remotely(self._remote, under, taken)
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
            active, held = self._counters.hold(name, limit.conn + limit.burst, patient)
            taken.seen += 1
            if active == REFUSED:
                return self._refusal
            taken.held.append(held)
            taken.delay += self._unit * ((active - 1) // limit.conn)
        return None

    async def _take_remotely(self, remote: RedisCounts, under: Sequence[Under], taken: Taken) -> Answer | None:
        try:
            for limit, name in under:
                token = token_bytes(12).hex().encode()
                taken.remote.append((name, token))  # before: who does not wait for the answer may be counted, too
                active = await remote.hold(name, limit.conn + limit.burst, token, self.config.key_ttl)
                if active == REFUSED:
                    taken.remote.pop()
                    return self._refusal
                taken.delay += self._unit * ((active - 1) // limit.conn)
        except RedisFailed:
            return None if self.config.allow_degradation else Answer(500)
        if taken.delay >= LEAST_DELAY:
            await asyncio.sleep(taken.delay)
        return None

    def log(self, exchange: "Exchange") -> None:
        """Count a request out."""
        assert exchange.run is not None  # noqa: S101 - hooks run in one
        taken: Taken | None = exchange.run.kept(self)
        if taken is None:
            return
        for held in taken.held:
            self._counters.let_go(held)
        if taken.remote and self._remote is not None:
            self.scope.services.spawn(_let_go(self._remote, taken.remote))

    def close(self) -> None:
        """Leave the Redis."""
        if self._redis is not None:
            self._redis.leave()


async def _let_go(remote: RedisCounts, held: list[tuple[bytes, bytes]]) -> None:
    with suppress(RedisFailed):  # it has been logged, and what is left there ends with ``key_ttl``
        for name, token in held:
            await remote.let_go(name, token)


def _limits(config: LimitConnConfig, prefix: str) -> list[Limit]:
    if config.rules is None:
        assert config.conn is not None and config.burst is not None and config.key is not None  # noqa: S101, PT018
        return [Limit(config.conn, config.burst, key_of(config.key, config.key_type), prefix)]
    return [
        Limit(rule.conn, rule.burst, combination_of(rule.key), f"{prefix}:{number}")
        for number, rule in enumerate(config.rules, 1)
    ]
