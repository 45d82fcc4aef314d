"""Route: what the hot path needs of a configured route, compiled once per change."""

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from config_sync.schema import Timeout
from worker.routing.pattern import Pattern

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.upstream.peer import ServiceCell, UpstreamCell

Condition = Callable[["Exchange"], bool]


class AddressCondition:
    """``remote_addrs``: the client's address is one of these or lies in one of these networks."""

    __slots__ = ("_networks", "_verdicts")

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(text, strict=False) for text in addresses]
        self._verdicts: dict[str, bool] = {}

    def holds(self, address: str) -> bool:
        """Tell whether an address is covered; answers are remembered, for clients come back."""
        verdict = self._verdicts.get(address)
        if verdict is None:
            if len(self._verdicts) >= 4096:
                self._verdicts.clear()
            verdict = self._verdicts[address] = self._covers(address)
        return verdict

    def _covers(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def __repr__(self) -> str:
        """Show the networks."""
        return ", ".join(map(str, self._networks))


class Route:
    """A route as the router and the exchange use it; immutable, replaced as a whole when it changes."""

    __slots__ = (
        "addresses",
        "condition",
        "has_plugins",
        "hosts",
        "id",
        "inherits_hosts",
        "methods",
        "patterns",
        "plugin_config_id",
        "priority",
        "repeatable",
        "service",
        "timeout",
        "upstream",
        "websocket",
    )

    def __init__(
        self,
        id_: str,
        patterns: tuple[Pattern, ...],
        hosts: tuple[str, ...],
        methods: frozenset[bytes],
        priority: int,
        addresses: AddressCondition | None = None,
        upstream: "UpstreamCell | None" = None,
        service: "ServiceCell | None" = None,
        timeout: Timeout | None = None,
        inherits_hosts: bool = False,
        condition: Condition | None = None,
        repeatable: bool = True,
        websocket: bool | None = None,
        has_plugins: bool = False,
        plugin_config_id: str | None = None,
    ) -> None:
        self.id = id_
        self.patterns = patterns
        self.hosts = hosts
        self.methods = methods
        self.priority = priority
        self.addresses = addresses
        self.upstream = upstream
        self.service = service
        self.timeout = timeout
        self.inherits_hosts = inherits_hosts  # from its service
        self.condition = condition  # ``vars``
        self.repeatable = repeatable and addresses is None  # its conditions depend on the head alone
        self.websocket = websocket  # None: as its service has it
        self.has_plugins = has_plugins  # of its own, or by its plugin config
        self.plugin_config_id = plugin_config_id

    def with_hosts(self, hosts: tuple[str, ...]) -> "Route":
        """Return the same route for other hosts."""
        return Route(
            self.id,
            self.patterns,
            hosts,
            self.methods,
            self.priority,
            self.addresses,
            self.upstream,
            self.service,
            self.timeout,
            self.inherits_hosts,
            self.condition,
            self.repeatable,
            self.websocket,
            self.has_plugins,
            self.plugin_config_id,
        )

    def allows_upgrade(self) -> bool:
        """Tell whether requests may switch protocols; the route wins over its service when it says anything."""
        if self.websocket is not None or self.service is None:
            return bool(self.websocket)
        return bool(self.service.websocket)

    def __repr__(self) -> str:
        """Show id and patterns."""
        return f"<Route {self.id} {[pattern.text for pattern in self.patterns]}>"
