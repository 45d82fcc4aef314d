"""RedisClient: carries out scripts in a Redis, each as one step there.

The library is imported with the first script, in a thread. The plugins of a worker that reach the same Redis in the
same way share a client, and so its connections.
"""

import asyncio
import importlib
import logging
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import msgspec

from worker.plugins.http_client import SYSTEM
from worker.plugins.limiting.redis_config import address_of

if TYPE_CHECKING:
    from worker.plugins.services import PluginServices

log = logging.getLogger("propylon.plugins")

GRACE = 30.0  # seconds in which a client that nobody uses is kept, for requests that still do, and for the next user
QUIET_TIME = 1.0  # seconds between two complaints


class RedisFailed(Exception):
    """The Redis does not answer, or not as it should."""


class Connection(msgspec.Struct, frozen=True):
    """What makes two configurations reach the same Redis in the same way."""

    policy: str
    nodes: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None
    database: int
    connect_time: float  # seconds
    answer_time: float
    tls: bool
    verified: bool
    most: int  # connections
    master: str = ""
    is_replica: bool = False
    sentinel_username: str | None = None
    sentinel_password: str | None = None


def connection_of(config: Any) -> Connection:
    """Return how the Redis of a checked configuration is reached."""
    is_cluster = config.policy == "redis-cluster"
    common = {
        "policy": config.policy,
        "username": config.redis_username,
        "password": config.redis_password,
        "database": 0 if is_cluster else config.redis_database,
        "connect_time": config.redis_timeout / 1000,
        "answer_time": config.redis_timeout / 1000,
        "tls": config.redis_cluster_ssl if is_cluster else config.redis_ssl,
        "verified": config.redis_cluster_ssl_verify if is_cluster else config.redis_ssl_verify,
        "most": config.redis_keepalive_pool,
    }
    if is_cluster:
        return Connection(nodes=tuple(map(address_of, config.redis_cluster_nodes)), **common)
    if config.policy == "redis":
        return Connection(nodes=((config.redis_host, config.redis_port),), **common)
    times = {"connect_time": config.redis_connect_timeout / 1000, "answer_time": config.redis_read_timeout / 1000}
    return Connection(
        nodes=tuple((sentinel.host, sentinel.port) for sentinel in config.redis_sentinels),
        master=config.redis_master_name,
        is_replica=config.redis_role == "slave",
        sentinel_username=config.sentinel_username,
        sentinel_password=config.sentinel_password,
        **{**common, **times},
    )


class RedisClient:
    """A Redis, as the plugins of one worker use it."""

    def __init__(self, connection: Connection, services: "PluginServices") -> None:
        self._users = 0
        self._unused: asyncio.TimerHandle | None = None  # closes it
        self._keeper: asyncio.Task[None] | None = None
        self._made: Any = None  # the library's client
        self._connection = connection
        self._services = services
        self._opening: asyncio.Future[Any] | None = None
        self._scripts: dict[str, Any] = {}
        self._errors: tuple[type[BaseException], ...] = (OSError, TimeoutError)
        self._quiet_until = 0.0

    async def run(self, script: str, keys: list[bytes], arguments: list[Any]) -> Any:
        """Carry out a script.

        Raises:
            RedisFailed: it could not be done in time.
        """
        connection, loop = self._connection, self._services.loop
        if self._opening is None:
            self._opening = loop.run_in_executor(None, importlib.import_module, "redis.asyncio")
        library = await asyncio.shield(self._opening)
        try:
            async with asyncio.timeout(connection.connect_time + connection.answer_time):
                registered = self._scripts.get(script)
                if registered is None:
                    registered = self._scripts[script] = self._client(library).register_script(script)
                return await registered(keys, arguments)
        except self._errors as error:
            if loop.time() >= self._quiet_until:
                self._quiet_until = loop.time() + QUIET_TIME
                nodes = ", ".join(f"{host}:{port}" for host, port in connection.nodes)
                log.error("%s %s: %s: %s", connection.policy, nodes, type(error).__name__, error)
            raise RedisFailed(str(error)) from error

    def _client(self, library: Any) -> Any:
        """Make the library's client, once."""
        if self._made is None:
            self._errors = (*self._errors, library.RedisError)
            self._made = open_client(self._connection, library, self._services.settings.ssl.ssl_trusted_certificate)
            self._keeper = self._services.spawn(self._keep())
        return self._made

    async def _keep(self) -> None:
        """Keep the connections open until this is cancelled."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            made, self._made = self._made, None
            self._scripts = {}
            await made.aclose()

    def use(self) -> None:
        """Note another user."""
        self._users += 1
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None

    def leave(self) -> None:
        """Note that a user is gone."""
        self._users -= 1
        if not self._users:
            self._unused = self._services.loop.call_later(GRACE, self._close)

    def _close(self) -> None:
        of_worker = _clients.get(self._services, {})
        if of_worker.get(self._connection) is self:
            del of_worker[self._connection]
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None


def open_client(connection: Connection, library: Any, authorities: str) -> Any:
    """Make a client of the library; servers are verified against the PEM file ``authorities``, or the system's."""
    options: dict[str, Any] = {
        "username": connection.username,
        "password": connection.password,
        "socket_connect_timeout": connection.connect_time,
        "socket_timeout": connection.answer_time,
        # A connection that was idle may have been closed meanwhile.
        "retry": importlib.import_module("redis.asyncio.retry").Retry(
            importlib.import_module("redis.backoff").NoBackoff(), 1
        ),
    }
    tls = {
        "ssl_cert_reqs": "required" if connection.verified else "none",
        "ssl_check_hostname": connection.verified,
        "ssl_ca_certs": authorities if connection.verified and authorities != SYSTEM else None,
    }
    if connection.policy == "redis-cluster":
        nodes = [library.cluster.ClusterNode(host, port) for host, port in connection.nodes]
        more = {"ssl": True, **tls} if connection.tls else {}
        return library.RedisCluster(startup_nodes=nodes, max_connections=connection.most, **options, **more)
    options["db"] = connection.database
    if connection.policy == "redis-sentinel":
        own = {"username": connection.sentinel_username, "password": connection.sentinel_password}
        times = {"socket_connect_timeout": connection.connect_time, "socket_timeout": connection.answer_time}
        more = {"ssl": True, **tls} if connection.tls else {}
        sentinel = library.Sentinel(connection.nodes, sentinel_kwargs={**own, **times}, **options, **more)
        find = sentinel.slave_for if connection.is_replica else sentinel.master_for
        return find(connection.master)
    ((host, port),) = connection.nodes
    kind = {"connection_class": library.SSLConnection, **tls} if connection.tls else {}
    pool = library.BlockingConnectionPool(
        host=host, port=port, max_connections=connection.most, timeout=connection.answer_time, **options, **kind
    )
    return library.Redis.from_pool(pool)


_clients: "WeakKeyDictionary[PluginServices, dict[Connection, RedisClient]]" = WeakKeyDictionary()


def client_of(config: Any, services: "PluginServices") -> RedisClient:
    """Return the client for a checked configuration, in use; whoever gets it is to ``leave`` it."""
    connection = connection_of(config)
    of_worker = _clients.setdefault(services, {})
    client = of_worker.get(connection)
    if client is None:
        client = of_worker[connection] = RedisClient(connection, services)
    client.use()
    return client
