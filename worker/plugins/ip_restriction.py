"""Lets clients through, or keeps them out, by their address.

Exactly one of ``whitelist`` and ``blacklist``: addresses and networks in CIDR form. The client's address is that after
``real_ip_header`` and real-ip. Who is kept out gets ``response_code`` (403 or 404) with ``{"message": message}``.
"""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from config_sync.schema.fields import check_addresses
from worker.plugins.answer import Answer, message
from worker.plugins.base import Plugin, Scope
from worker.plugins.guard_checks import check_exactly_one
from worker.routing.route import AddressCondition
from worker.variables import accessor

if TYPE_CHECKING:
    from worker.exchange import Exchange

Addresses = Annotated[list[str], msgspec.Meta(min_length=1)]


class IpRestrictionConfig(msgspec.Struct):
    """Who is let through, and what the others are told."""

    whitelist: Addresses | None = None
    blacklist: Addresses | None = None
    message: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] = "Your IP address is not allowed"
    response_code: Annotated[int, msgspec.Meta(ge=403, le=404)] = 403


class IpRestriction(Plugin[IpRestrictionConfig]):
    """Looks at the client's address."""

    name = "ip-restriction"
    priority = 3000
    Config = IpRestrictionConfig

    def __init__(self, config: IpRestrictionConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._holds = AddressCondition(tuple(config.whitelist or config.blacklist or ())).holds
        self._passes = config.whitelist is not None  # whom the list names
        self._address = accessor("remote_addr")
        self._refusal = message(config.response_code, config.message)

    @classmethod
    def check(cls, config: Any) -> None:
        """Check that there is one list, of addresses."""
        check_exactly_one(config, "whitelist", "blacklist")
        for name in ("whitelist", "blacklist"):
            check_addresses(getattr(config, name) or (), f"$.{name}")

    def access(self, exchange: "Exchange") -> Answer | None:
        """Refuse whom the list does not let through."""
        address = self._address(exchange)
        return None if self._holds(str(address)) is self._passes else self._refusal
