"""Which connections a pool keeps, hands out and gives up."""

from worker.upstream.endpoint import Origin
from worker.upstream.pool import Pool, PoolKey, Pools


class Connection:
    def __init__(self, idle_since: float = 0.0, requests: int = 1) -> None:
        self.idle_since = idle_since
        self.origin: Origin | None = None
        self.requests = requests
        self.closed = False

    def close(self) -> None:
        self.closed = True


KEY = PoolKey("http", "a", 80, size=2, idle_timeout=60.0, requests=10)


def test_last_used_is_used_next() -> None:
    pool: Pool[Connection] = Pool(KEY)
    first, second = Connection(), Connection()
    assert pool.acquire() is None
    assert pool.release(first)
    assert pool.release(second)
    assert pool.acquire() is second
    assert pool.acquire() is first


def test_full_pools_and_worn_out_connections() -> None:
    pool: Pool[Connection] = Pool(KEY)
    assert not pool.release(Connection(requests=10))
    assert pool.release(Connection())
    assert pool.release(Connection())
    assert not pool.release(Connection())


def test_without_idle_time_nothing_is_kept() -> None:
    pool: Pool[Connection] = Pool(KEY._replace(idle_timeout=0.0))
    assert not pool.release(Connection())


def test_expired_connections_are_taken_out_oldest_first() -> None:
    pool: Pool[Connection] = Pool(KEY)
    old, fresh = Connection(idle_since=0.0), Connection(idle_since=30.0)
    pool.release(old)
    pool.release(fresh)
    assert pool.expired(61.0) == [old]
    assert pool.acquire() is fresh


def test_discarded_connections_are_not_handed_out() -> None:
    pool: Pool[Connection] = Pool(KEY)
    connection = Connection()
    pool.release(connection)
    pool.discard(connection)
    pool.discard(connection)
    assert pool.acquire() is None


def test_pools_are_shared_by_identity_and_retire_with_their_last_user() -> None:
    pools: Pools[Connection] = Pools()
    pool = pools.use(KEY)
    assert pools.use(KEY) is pool
    assert pools.use(KEY._replace(size=3)) is not pool
    connection = Connection()
    pool.release(connection)
    pools.leave(pool)
    assert not connection.closed
    pools.leave(pool)
    assert connection.closed
    assert not pool.release(Connection())
    assert pools.use(KEY) is not pool
