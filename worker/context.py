"""WorkerContext: what the connections of one worker share."""

import asyncio
import gc
import logging
from email.utils import formatdate
from typing import TYPE_CHECKING, Literal, cast

from config_sync.cache import ConfigStore
from config_sync.settings import Settings
from config_sync.settings_metrics import prometheus_settings
from config_sync.steps import Stepper
from worker.consumers import Consumers
from worker.discovery.enabled import open_discoveries
from worker.http.client_address import Trusts
from worker.http.outbox import LateTransport, Outbox
from worker.http.target import path_rules
from worker.http.websocket import GOING_AWAY, SERVICE_RESTART
from worker.janitor import Janitor
from worker.observability.access_log import AccessLog
from worker.observability.existence import Existence
from worker.observability.metrics import Metrics
from worker.plugins.host import PluginHost
from worker.plugins.registry import Registry
from worker.plugins.services import PluginServices
from worker.routing.router import build_router
from worker.secrets.cache import SecretCache
from worker.secrets.managers import open_secrets
from worker.shared_state.memory import SharedState
from worker.shared_state.series import SharedSeries
from worker.switcher import Switcher
from worker.upkeep import Upkeep
from worker.upstream.balancing import Balancing
from worker.upstream.builder import UpstreamBuilder
from worker.upstream.dns import DnsClient
from worker.upstream.hosts import HostsFile
from worker.upstream.pool import Pools
from worker.upstream.resolver import Resolver
from worker.upstream.shared_loads import LoadRow
from worker.upstream.tls import TlsProfiles
from worker.upstream.transport import Transport

if TYPE_CHECKING:
    from worker.http.http1_client import Http1Client
    from worker.http.http1_server import Http1Server
    from worker.http.lingering import Lingering
    from worker.http.tunnel import Tunnel
    from worker.http.upstream_connection import UpstreamConnection
    from worker.upstream.health.registry import CheckRegistry

Reason = Literal["reload", "stop"]

log = logging.getLogger("propylon.worker")

AHEAD_TIME = 5.0  # seconds of a drain in which all that clients have sent ahead is answered
FINISH_TIME = 3.0  # seconds for WebSockets to be told, to answer, and to be closed
TUNNELS_PER_STEP = 50  # about 1 ms
GOLDEN = (5**0.5 - 1) / 2  # its multiples modulo 1 are spread evenly, however many there are

# A request leaves no cycles behind, so collections find little; rarer ones cost less (measured: 1.5 us a request).
GC_THRESHOLDS = (50_000, 20, 50)


class WorkerContext:
    """The router, the pools, the counters and the clock of one worker."""

    __slots__ = (
        "_finish_until",
        "_janitor",
        "accepted",
        "access_log",
        "body_temp_path",
        "builder",
        "checks",
        "date_line",
        "downstream_connections",
        "drain_began",
        "draining",
        "lingering",
        "loop",
        "metrics",
        "now",
        "outbox",
        "path_rules",
        "plugins",
        "pools",
        "reason",
        "requests",
        "router",
        "secrets",
        "settings",
        "switcher",
        "time",
        "trusts",
        "tunnels",
        "upkeep",
        "upstream_connections",
    )

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        store: ConfigStore,
        seed: int = 0,
        row: LoadRow | None = None,
        checks: "CheckRegistry | None" = None,
        registry: Registry | None = None,
        state: SharedState | None = None,
        series: SharedSeries | None = None,
        number: int = 0,
    ) -> None:
        """Prepare a worker; for ``seed`` and ``row`` see ``Balancing``, for ``checks`` ``Switcher``.

        Without a ``registry`` there are no plugins. They count in the row of ``state`` with a ``number``, and for
        this worker alone if it is not given. What metrics count goes into ``series``, or, without, nowhere else.
        """
        self.settings = settings
        self.loop = loop
        self.trusts = Trusts(settings)
        self.time = loop.time
        self.now = loop.time()  # coarse, of the janitor's last round; enough for every time-out
        self.date_line = b""
        self.requests = 0
        self.accepted = 0
        self.outbox: Outbox | None = None  # without one, everything is sent as soon as it is written
        self.draining = False
        self.drain_began = 0.0
        self._finish_until = 0.0
        self.reason: Reason = "stop"  # of the drain
        self.downstream_connections: set[Http1Server] = set()
        self.upstream_connections: set[UpstreamConnection] = set()
        self.lingering: set[Lingering] = set()
        self.router = build_router(settings.router.http)
        self.path_rules = path_rules(settings.router)
        self.tunnels: set[Tunnel] = set()
        self.body_temp_path = settings.body_temp_path()
        self.pools: Pools[Http1Client] = Pools()
        balancing = Balancing(seed, Stepper(loop), row)
        self.checks = checks
        registry = registry or Registry({})
        registry.settings = settings
        self.builder = open_builder(settings, loop, self.pools, balancing, checks, registry)
        self.switcher = Switcher(store, self.router, self.builder)
        self.metrics = Metrics(prometheus_settings(settings.plugin_attr), Existence(store), series)
        self.plugins, self.secrets = open_plugins(
            settings,
            loop,
            store,
            self.switcher,
            registry,
            state or own_state(number),
            number,
            self.metrics,
        )
        store.subscribe(self.metrics.changed, self.metrics.stage)
        self.upkeep = Upkeep(
            self.router, lambda: self.switcher.routes, self.switcher.shadows, loop, settings.router.verify_interval
        )
        self.access_log: AccessLog | None = None
        path = settings.access_log_path()
        if path is not None:
            self.access_log = AccessLog(path, settings.access_log_format, loop)
        self._janitor = Janitor(self)
        self.refresh_date()

    @property
    def connections(self) -> int:
        """The number of client connections now."""
        return len(self.downstream_connections)

    def start(self) -> None:
        """Begin the periodic work; everything allocated until now is taken for permanent by the collector."""
        # Not collected first: with 100,000 routes that takes 0.2 s, and finds next to nothing.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self.builder.prepare()
        self._janitor.start()
        self.upkeep.start()
        self.metrics.start(self.loop)

    def refresh_date(self) -> None:
        """Write the Date line anew, for the answers we make ourselves."""
        self.date_line = b"Date: %b\r\n" % formatdate(usegmt=True).encode()

    def late(self, transport: asyncio.BaseTransport) -> asyncio.Transport:
        """Return a transport by which what is written leaves at the end of a round, if there is an outbox.

        One without a socket, of a request within another, stays as it is.
        """
        made = cast("asyncio.Transport", transport)
        if self.outbox is None or transport.get_extra_info("socket") is None:
            return made
        return LateTransport(made, self.outbox)

    def admit(self, connection: "Http1Server") -> bool:
        """Count a client in; False when ``worker_connections`` are in use."""
        if len(self.downstream_connections) >= self.settings.worker_connections:
            log.warning("%d worker_connections are not enough", self.settings.worker_connections)
            return False
        self.accepted += 1
        self.downstream_connections.add(connection)
        return True

    def dismiss(self, connection: "Http1Server") -> None:
        """Count a client out."""
        self.downstream_connections.discard(connection)

    def drain(self, reason: Reason) -> None:
        """Let every client connection end with its next answer, or soon when nothing more is asked."""
        self.reason = reason
        if self.draining:
            return
        self.draining = True
        self.drain_began = self.loop.time()
        for connection in list(self.downstream_connections):
            connection.drain_changed()

    def undo_drain(self) -> None:
        """Go on as before with the client connections that are left."""
        self.draining = False
        self._finish_until = 0.0
        for connection in list(self.downstream_connections):
            connection.drain_changed()

    def waits_for(self, pending: bytes) -> bool:
        """Tell whether a client that has sent more requests ahead is to have their answers before it is let go."""
        return pending != b"" and self.now < self.drain_began + AHEAD_TIME

    def leaving_time(self, number: int) -> float:
        """Return the moment after which an idle connection is closed in a drain; each has its own."""
        return self.drain_began + number * GOLDEN % 1.0 * self.settings.close_spread

    def finish(self) -> bool:
        """End the WebSockets that are left when a drain has to end: each side is told, and may answer.

        Whatever else is under way goes on until ``close``.

        Returns:
            Whether they are gone, at the latest ``FINISH_TIME`` after the first call; to be called until they are.
        """
        if not self._finish_until:
            self._finish_until = self.loop.time() + FINISH_TIME
            code = SERVICE_RESTART if self.reason == "reload" else GOING_AWAY
            websockets = [tunnel for tunnel in self.tunnels if tunnel.is_websocket]
            log.info("%d WebSockets are closed, since the worker ends", len(websockets))
            self._leave_tunnels(websockets, code)
        return self.loop.time() > self._finish_until or not any(tunnel.is_websocket for tunnel in self.tunnels)

    def _leave_tunnels(self, tunnels: "list[Tunnel]", code: int) -> None:
        for tunnel in tunnels[:TUNNELS_PER_STEP]:
            tunnel.leave(code)
        if len(tunnels) > TUNNELS_PER_STEP:
            self.loop.call_soon(self._leave_tunnels, tunnels[TUNNELS_PER_STEP:], code)

    def is_idle(self) -> bool:
        """Tell whether no client connection is left."""
        return not self.downstream_connections

    def reopen_logs(self) -> None:
        """Open the access log, and those of plugins, anew, after they were moved away."""
        self.plugins.services.reopen()
        if self.access_log is not None:
            self.access_log.reopen()

    def close(self) -> None:
        """Cut every connection and end the periodic work."""
        self._janitor.stop()
        self.upkeep.stop()
        self.secrets.close()
        self.plugins.close()
        self.metrics.close()
        self.builder.close()
        for tunnel in list(self.tunnels):
            tunnel.abort()
        for connection in list(self.downstream_connections):
            connection.abort()
        self.pools.close()
        for upstream in list(self.upstream_connections):
            upstream.close()
        if self.access_log is not None:
            self.access_log.close()


def own_state(number: int) -> SharedState:
    """Make memory for the counters of a worker that shares them with nobody."""
    state = SharedState()
    state.open(number)
    return state


def open_plugins(
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
    store: ConfigStore,
    switcher: Switcher,
    registry: Registry,
    state: SharedState,
    number: int,
    metrics: Metrics,
) -> tuple[PluginHost, SecretCache]:
    """Make what knows which plugins apply, and the secrets that their configurations refer to."""
    consumers = Consumers(registry.credential, registry.credentials)
    services = PluginServices(
        loop,
        settings,
        consumers,
        switcher.upstream_cell,
        switcher.build_for_plugin,
        switcher.discard_cell,
        state.counters(number),
        state.notes,
        metrics,
    )
    host = PluginHost(store, switcher.router, registry, services, settings.plugins.on_failure == "bypass")
    secrets = open_secrets(services, registry.secrets, store)
    secrets.add_user(consumers)
    secrets.add_user(host)
    secrets.add_user(switcher.builder.tls)
    return host, secrets


def open_builder(
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
    pools: "Pools[Http1Client]",
    balancing: Balancing,
    checks: "CheckRegistry | None",
    registry: Registry,
) -> UpstreamBuilder:
    """Make what builds upstreams, with all that it needs to reach their nodes."""
    client = DnsClient(loop, settings.dns_resolver, settings.resolver_timeout, settings.enable_resolv_search_opt)
    resolver = Resolver(loop, client, HostsFile(loop), settings.enable_ipv6, settings.dns_resolver_valid)
    transport = Transport(pools, resolver, TlsProfiles(settings.ssl.ssl_trusted_certificate, registry.secrets))
    return UpstreamBuilder(transport, open_discoveries(settings, loop), balancing, checks)
