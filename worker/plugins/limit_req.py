"""Lets requests through at a rate, like water through a hole in a bucket.

    rate           requests in a second
    burst          how many more may be in the bucket; they are delayed until their turn, or not with ``nodelay``
    key, key_type  what is counted: a variable (``var``) or a template (``var_combination``)
    rejected_code  of the answer to what does not fit into the bucket (503), ``rejected_msg`` its ``error_msg``
    policy         where is counted: ``local``, all workers of this node together; or ``redis``, ``redis-cluster``, with
                   the fields of limit-count
    allow_degradation
                   when it cannot be counted, requests pass; else they get 500

A key without a value is the client's address. Delays below a millisecond are left out.
"""

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.limiting.keys import KeyType, counter_name, encoded, key_of, refusal
from worker.plugins.limiting.patience import patiently
from worker.plugins.limiting.redis_client import RedisFailed, client_of
from worker.plugins.limiting.redis_config import RedisConfig, check_redis
from worker.plugins.limiting.redis_counts import RedisCounts
from worker.shared_state.counters import REFUSED
from worker.shared_state.locks import Busy

if TYPE_CHECKING:
    from worker.exchange import Exchange

LEAST_DELAY = 0.001  # seconds


class LimitReqConfig(RedisConfig, kw_only=True):
    """How many requests in a second, and of whom."""

    rate: Annotated[float, msgspec.Meta(gt=0)]
    burst: Annotated[float, msgspec.Meta(ge=0)]
    key: Annotated[str, msgspec.Meta(min_length=1)]
    key_type: KeyType = "var"
    nodelay: bool = False
    rejected_code: Annotated[int, msgspec.Meta(ge=200, le=599)] = 503
    rejected_msg: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class LimitReq(Plugin[LimitReqConfig]):
    """Pours requests into buckets."""

    name = "limit-req"
    priority = 1001
    Config = LimitReqConfig

    def __init__(self, config: LimitReqConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._rate, self._burst = config.rate, config.burst
        self._least = float("inf") if config.nodelay else LEAST_DELAY * config.rate
        self._key = key_of(config.key, config.key_type)
        self._redis = client_of(config, scope.services) if config.policy != "local" else None
        self._remote = RedisCounts(self._redis) if self._redis is not None else None
        self._prefix = counter_name(scope) if self._redis is not None else f"limit-req:{counter_name(scope)}"
        self._refusal = refusal(config.rejected_code, config.rejected_msg)
        self._counters = scope.services.counters

    @classmethod
    def check(cls, config: Any) -> None:
        """Check where is counted."""
        check_redis(config)

    def access(self, exchange: "Exchange") -> Answer | Awaitable[Answer | None] | None:
        """Let a request through, refuse it, or let it wait for its turn."""
        name = encoded(f"{self._prefix}:{self._key(exchange)}")
        if self._remote is not None:
            return self._pour_remotely(self._remote, name)
        try:
            excess = self._counters.pour(name, self._rate, self._burst)
        except Busy:
            return self._later(name)
        if excess == REFUSED:
            return self._refusal
        return None if excess < self._least else self._delayed(excess)

    async def _later(self, name: bytes) -> Answer | None:
        """Decide when nobody is in the way any more."""
        excess = await patiently(lambda patient: self._counters.pour(name, self._rate, self._burst, patient))
        return await self._delayed(excess)

    async def _pour_remotely(self, remote: RedisCounts, name: bytes) -> Answer | None:
        try:
            excess = await remote.pour(name, self._rate, self._burst)
        except RedisFailed:
            return None if self.config.allow_degradation else Answer(500)
        return await self._delayed(excess)

    async def _delayed(self, excess: float) -> Answer | None:
        if excess == REFUSED:
            return self._refusal
        if excess >= self._least:
            await asyncio.sleep(excess / self._rate)
        return None

    def close(self) -> None:
        """Leave the Redis."""
        if self._redis is not None:
            self._redis.leave()
