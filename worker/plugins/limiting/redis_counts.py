"""What plugins count in a Redis, by scripts; the forms of keys and values are APISIX's (plugins.md section 5)."""

from collections.abc import Callable
from math import ceil
from time import time

from worker.plugins.limiting.redis_client import RedisClient
from worker.shared_state.counters import REFUSED

_TAKE = """
local seconds = redis.call('TTL', KEYS[1])
if seconds < 0 then
    local left = tonumber(ARGV[1]) - tonumber(ARGV[3])
    redis.call('SET', KEYS[1], left, 'EX', ARGV[2])
    return {left, tonumber(ARGV[2])}
end
return {redis.call('DECRBY', KEYS[1], ARGV[3]), seconds}
"""

_SLIDE = """
local limit = tonumber(ARGV[1])
local before = tonumber(redis.call('GET', KEYS[2]) or '0') * tonumber(ARGV[3])
local taken = tonumber(redis.call('GET', KEYS[1]) or '0')
if taken + 1 + before > limit then
    return -1
end
taken = redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], 2 * tonumber(ARGV[2]))
return math.floor(limit - before - taken)
"""

_POUR = """
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000
local state = redis.call('HMGET', KEYS[1], 'excess', 'last')
local excess = 0
if state[1] and state[2] then
    local passed = math.max(0, now - tonumber(state[2]))
    excess = math.max(tonumber(state[1]) - rate * passed / 1000 + 1, 0)
end
if excess > burst then
    return '-1'
end
redis.call('HSET', KEYS[1], 'excess', tostring(excess), 'last', string.format('%.3f', now))
redis.call('EXPIRE', KEYS[1], ARGV[3])
return tostring(excess)
"""

_HOLD = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local held = redis.call('ZCARD', KEYS[1])
if held >= tonumber(ARGV[1]) then
    return -1
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return held + 1
"""

_LET_GO = "return redis.call('ZREM', KEYS[1], ARGV[1])"
_LONGEST = 1_000_000_000  # seconds


class RedisCounts:
    """The counts, as ``SharedCounters`` has them for one node; everything raises RedisFailed."""

    def __init__(self, client: RedisClient, clock: Callable[[], float] = time) -> None:
        self._client = client
        self._clock = clock

    async def take(self, key: bytes, limit: int, window: int, cost: int = 1) -> tuple[int, float]:
        """Take ``cost`` of a window; what is left, below 0 when there was not enough, and the seconds to its end."""
        window = min(window, _LONGEST)
        left, seconds = await self._client.run(_TAKE, [b"plugin-limit-count:v1:" + key], [limit, window, cost])
        return int(left), float(seconds)

    async def slide(self, key: bytes, limit: int, window: int) -> tuple[int, float]:
        """Take one of any ``window`` seconds, by the estimate of plugins.md section 5."""
        number, within = divmod(self._clock(), window)
        # The braces keep both in one node of a cluster.
        keys = [b"plugin-limit-count:v1:{%b}:%d" % (key, number - back) for back in (0, 1)]
        left = await self._client.run(_SLIDE, keys, [limit, min(window, _LONGEST), 1 - within / window])
        return int(left), window - within

    async def pour(self, key: bytes, rate: float, burst: float) -> float:
        """Pour one into a bucket; what is in it before, ``REFUSED`` if too much."""
        lifetime = min(ceil((burst + 1) / rate) + 1, _LONGEST)
        return float(await self._client.run(_POUR, [b"limit_req:" + key], [rate, burst, lifetime]))

    async def hold(self, key: bytes, most: int, held: bytes, ttl: int) -> int:
        """Note that ``held`` is under way, for ``ttl`` seconds at most; how many are, ``REFUSED`` if too many."""
        count = int(await self._client.run(_HOLD, [b"limit_conn:" + key], [most, ttl, held]))
        return REFUSED if count < 0 else count

    async def let_go(self, key: bytes, held: bytes) -> None:
        """Note that it is over."""
        await self._client.run(_LET_GO, [b"limit_conn:" + key], [held])
