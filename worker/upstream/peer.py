"""Upstream and Peer: the compiled form of a configured upstream, as an exchange uses it."""

from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING

from config_sync.schema import Timeout
from worker.upstream.load import Load
from worker.upstream.pool_by_host import PoolByHost

if TYPE_CHECKING:
    from worker.discovery.nodes import DiscoveredNodes
    from worker.http.http1_client import Http1Client
    from worker.upstream.balancers import Balancer
    from worker.upstream.health.checker import Checker
    from worker.upstream.health.passive import PassiveReports
    from worker.upstream.pool import Pool
    from worker.upstream.queue import Queue

DEFAULT_TIMEOUT = Timeout(connect=60.0, send=60.0, read=60.0)
NO_LOAD = Load()  # of all peers whose load nobody tracks
DEFAULT_PORTS = {"http": 80, "https": 443, "grpc": 80, "grpcs": 443}


class Peer:
    """One node of an upstream: its address, its weight, and the pool of connections to it."""

    __slots__ = ("authority", "by_host", "host", "load", "max_conns", "pool", "port", "priority", "weight")

    def __init__(
        self,
        host: str,
        port: int,
        weight: int,
        priority: int,
        pool: "Pool[Http1Client]",
        scheme: str = "http",
        max_conns: int = 0,
    ) -> None:
        """Describe a peer; an IPv6 address may come with its brackets, and a ``max_conns`` of 0 is no limit."""
        bare = host.removeprefix("[").removesuffix("]")
        shown = f"[{bare}]" if ":" in bare else bare
        self.host = bare
        self.port = port
        self.weight = weight
        self.priority = priority
        self.pool = pool
        self.by_host = pool if isinstance(pool, PoolByHost) else None  # then that of the Host sent is to be used
        self.max_conns: float = max_conns or inf
        self.load = NO_LOAD  # its own when the upstream is tracked
        # The port stands in Host only when it is not the scheme's own (upstreams.md section 6).
        self.authority = (shown if port == DEFAULT_PORTS.get(scheme) else f"{shown}:{port}").encode()

    @property
    def address(self) -> str:
        """Its host, an IPv6 address in brackets, and its port: what it is known by when its upstream is changed."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def is_tracked(self) -> bool:
        """Tell whether its load is being counted."""
        return self.load is not NO_LOAD

    def is_full(self) -> bool:
        """Tell whether it has as many requests under way as it may."""
        return self.load.active >= self.max_conns

    def __repr__(self) -> str:
        """Show the address."""
        return self.address


class Upstream:
    """A named set of peers with one balancer; replaced as a whole when its configuration changes."""

    __slots__ = (
        "balancer",
        "checker",
        "discovered",
        "host",
        "id",
        "pass_host",
        "passive",
        "peers",
        "problem",
        "queue",
        "retries",
        "retry_timeout",
        "timeout",
    )

    def __init__(
        self,
        id_: str,
        peers: Sequence[Peer],
        balancer: "Balancer | None",
        retries: int | None,
        retry_timeout: float,
        timeout: Timeout | None,
        pass_host: str,
        upstream_host: str | None,
        queue: "Queue | None" = None,
        problem: str = "",
        discovered: "DiscoveredNodes | None" = None,
    ) -> None:
        self.id = id_
        self.peers = tuple(peers)
        self.balancer = balancer
        self.queue = queue  # where exchanges wait to which the balancer gives no peer; None when that cannot be
        self.retries = max(0, len(peers) - 1) if retries is None else retries
        self.retry_timeout = retry_timeout
        self.timeout = timeout or DEFAULT_TIMEOUT
        self.pass_host = pass_host == "pass"
        rewritten = pass_host == "rewrite" and upstream_host
        self.host = rewritten.encode() if rewritten else None
        self.problem = problem  # why there is no peer
        self.discovered = discovered  # what brings the nodes, when they are not in the configuration
        self.checker: Checker | None = None  # of its health checks
        self.passive: PassiveReports | None = None  # told of every answer and failed try

    def host_for(self, peer: Peer) -> bytes:
        """Return the Host to send when it is not the client's: the configured one, or the peer's."""
        return peer.authority if self.host is None else self.host

    def reason_unusable(self) -> str:
        """Say why there is no peer."""
        return (self.discovered.problem if self.discovered is not None else self.problem) or "has no usable node"

    def __repr__(self) -> str:
        """Show id and peers."""
        return f"<Upstream {self.id} {list(self.peers)}>"


class UpstreamCell:
    """A place that routes point at; a changed upstream is one assignment, however many routes use it."""

    __slots__ = ("current", "id", "is_inline")

    def __init__(self, id_: str, current: Upstream | None = None, is_inline: bool = False) -> None:
        self.id = id_
        self.current: Upstream | None
        self.is_inline = is_inline  # belongs to one route or service alone
        self.put(current)

    def put(self, upstream: Upstream | None) -> None:
        """Put an upstream in the place of the one there was; from now on its discovery replaces it here."""
        self.current = upstream
        if upstream is not None and upstream.discovered is not None:
            upstream.discovered.placed(self)

    def used(self) -> Upstream | None:
        """Return the upstream that a request is to use."""
        return self.current


class SharedCell(UpstreamCell):
    """The place of an upstream that has an id; kept by whoever refers to it, and by its upstream."""

    __slots__ = ("__weakref__",)


class DeferredCell(UpstreamCell):
    """The place of an inline upstream that is built when the first request comes: of very many, most see none."""

    __slots__ = ("_build",)

    def __init__(self, id_: str, build: "Callable[[DeferredCell], Upstream | None]") -> None:
        """Prepare a place; ``build`` is called with it when the upstream is wanted."""
        super().__init__(id_, is_inline=True)
        self._build = build

    def used(self) -> Upstream | None:
        """Return the upstream, built by now."""
        if self.current is None:
            self.put(self._build(self))
        return self.current


class ServiceCell:
    """A place that the routes of a service point at; ``exists`` is false while only the reference is known."""

    __slots__ = ("__weakref__", "exists", "has_plugins", "hosts", "id", "upstream", "websocket")

    def __init__(self, id_: str) -> None:
        self.id = id_
        self.exists = False
        self.has_plugins = False
        self.hosts: tuple[str, ...] = ()
        self.upstream: UpstreamCell | None = None
        self.websocket: bool | None = None
