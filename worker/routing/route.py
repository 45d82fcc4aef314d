"""Route: what the hot path needs of a configured route, compiled once per change."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from config_sync.schema import Timeout
from worker.messages import Request

if TYPE_CHECKING:
    from worker.upstream.peer import ServiceCell, UpstreamCell


class Pattern:
    """A ``uri`` of a route: an exact path, or a literal prefix with perhaps wildcard segments behind it."""

    __slots__ = ("exact", "length", "literal", "regex")

    def __init__(self, text: str) -> None:
        """Compile a uri pattern (routing.md section 3)."""
        star = text.find("*")
        self.length = len(text)
        self.exact = star < 0
        self.literal = (text if star < 0 else text[:star]).encode()
        self.regex = _wildcards(text) if 0 <= star < len(text) - 1 else None


def _wildcards(text: str) -> re.Pattern[bytes] | None:
    """Compile wildcard segments that are not last; a star inside a segment makes a plain prefix instead."""
    segments = text.split("/")
    if any("*" in segment[1:] for segment in segments) or not any(s.startswith("*") for s in segments):
        return None
    parts = [".*" if segment.startswith("*") else re.escape(segment) for segment in segments]
    return re.compile("/".join(parts).encode(), re.DOTALL)


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


class Route:
    """A route as the router and the exchange use it; immutable, replaced as a whole when it changes."""

    __slots__ = (
        "addresses",
        "hosts",
        "id",
        "inherits_hosts",
        "methods",
        "patterns",
        "priority",
        "service",
        "timeout",
        "upstream",
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
        )

    def accepts(self, request: Request, remote_address: str) -> bool:
        """Check the conditions besides host and path, in the order of routing.md section 4."""
        if self.methods and request.method not in self.methods:
            return False
        return self.addresses is None or self.addresses.holds(remote_address)

    def __repr__(self) -> str:
        """Show id and patterns."""
        return f"<Route {self.id} {[pattern.literal for pattern in self.patterns]}>"
