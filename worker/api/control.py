"""The control interface: leads a request to its handler.

There is no authentication: it listens on loopback by default. What can still reach it there is a browser, so a
request is refused when its Host is a name that an attacker's DNS may have pointed here, or when it would change
something and comes from a page of another origin.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from config_sync.cache import ConfigStore
from worker.api.config import ConfigHandlers
from worker.api.explain import ExplainHandlers
from worker.api.health import HealthHandlers
from worker.api.messages import Answer, Outcome, Request, failure
from worker.api.plugins import PluginHandlers
from worker.api.processes import ProcessHandlers
from worker.api.server import ApiServer
from worker.api.sync import SyncHandlers
from worker.api.turns import Turns
from worker.scoreboard import Entry

if TYPE_CHECKING:
    from worker.context import WorkerContext

log = logging.getLogger("propylon.control")

_READ = ("GET", "HEAD")


@dataclass(frozen=True)
class Endpoint:
    """Who answers, and to which methods."""

    handle: Callable[[Request], Outcome]
    methods: tuple[str, ...] = _READ


class ControlApi:
    """The table of what can be asked."""

    def __init__(
        self,
        sync: SyncHandlers,
        config: ConfigHandlers,
        explain: ExplainHandlers,
        health: HealthHandlers,
        processes: ProcessHandlers,
        plugins: PluginHandlers,
        own_host: str = "",
    ) -> None:
        """Lead to these; ``own_host`` is the name the address was given by."""
        self._own_hosts = {"localhost", own_host.lower()}
        self._exact = {
            "/status": Endpoint(sync.status),
            "/status/ready": Endpoint(sync.ready),
            "/v1/sync": Endpoint(sync.sync),
            "/v1/sync/wait": Endpoint(sync.wait),
            "/v1/sync/confirm": Endpoint(sync.confirm, ("POST",)),
            "/v1/processes": Endpoint(processes.processes),
            "/v1/config": Endpoint(config.directories),
            "/v1/config/errors": Endpoint(config.errors),
            "/v1/config/warnings": Endpoint(explain.warnings),
            "/v1/explain": Endpoint(explain.explain),
            "/v1/healthcheck": Endpoint(health.all),
            "/v1/plugins": Endpoint(plugins.all),
            "/v1/server_info": Endpoint(plugins.server_info),
            "/v1/routes": Endpoint(config.dump("routes")),
            "/v1/services": Endpoint(config.dump("services")),
            "/v1/upstreams": Endpoint(config.dump("upstreams")),
            "/v1/plugin_metadatas": Endpoint(config.dump("plugin_metadata")),
        }
        self._below = {
            "/v1/config/": Endpoint(config.below),
            "/v1/healthcheck/": Endpoint(health.one),
            "/v1/plugins/": Endpoint(plugins.one),
            "/v1/route/": Endpoint(config.dump_one("routes", "/v1/route/", "route")),
            "/v1/service/": Endpoint(config.dump_one("services", "/v1/service/", "service")),
            "/v1/upstream/": Endpoint(config.dump_one("upstreams", "/v1/upstream/", "upstream")),
            "/v1/plugin_metadata/": Endpoint(
                config.dump_one("plugin_metadata", "/v1/plugin_metadata/", "plugin metadata")
            ),
        }

    def handle(self, request: Request) -> Outcome:
        """Decide what to answer."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        endpoint = self._exact.get(request.path) or self._find_below(request.path)
        if endpoint is None:
            return failure(404, f"there is no {request.path}; GET /v1/sync and GET /v1/config are a beginning")
        if request.method not in endpoint.methods:
            allow = ", ".join(endpoint.methods)
            return failure(405, f"{request.path} answers to {allow}", ("Allow", allow))
        try:
            return endpoint.handle(request)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return failure(500, "this request failed; the error log has the reason")

    def _find_below(self, path: str) -> Endpoint | None:
        return next((endpoint for prefix, endpoint in self._below.items() if path.startswith(prefix)), None)

    def _refusal(self, request: Request) -> Answer | None:
        if len(request.hosts) != 1 and (request.hosts or request.version_11):
            return failure(400, "a request must have one Host field")
        if not request.hosts:
            return None
        host = request.hosts[0]
        if not self._is_own(host):
            return failure(
                403, f"Host {host[:100]!r} is refused, for a browser may have been led here by DNS; use an IP address"
            )
        if request.method not in _READ and request.origin and request.origin.partition("://")[2] != host:
            return failure(403, f"a page of {request.origin[:100]!r} may not change anything here")
        return None

    def _is_own(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdigit():
            name = host
        name = name.lower()
        if name in self._own_hosts:
            return bool(name)
        try:
            ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True


def control_server(context: "WorkerContext", store: ConfigStore, entry: Entry, turns: Turns) -> ApiServer:
    """Make what serves the control interface of one worker."""
    settings, loop = context.settings, context.loop
    api = ControlApi(
        SyncHandlers(entry.board, loop.time),
        ConfigHandlers(store, entry, settings.etcd.prefix),
        ExplainHandlers(context, store, entry),
        HealthHandlers(store, context.checks, settings.etcd.prefix),
        ProcessHandlers(entry.board, settings.worker_heartbeat_timeout),
        PluginHandlers(context.plugins, entry),
        settings.control.listen.rpartition(":")[0],
    )
    return ApiServer(loop, settings.backlog, api.handle, turns)
