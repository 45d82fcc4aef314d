"""Takes the client's address from what a proxy in front has said of it.

From then on it is the client's: ``remote_addr`` and ``remote_port``, later plugins, the access log, and what the
upstream is told (``X-Real-IP``, the end of ``X-Forwarded-For``). Routes have been chosen by then.

    source              a variable, as ``http_x_forwarded_for`` or ``arg_realip``, which holds ``address[:port]``
    trusted_addresses   addresses and networks; only a peer, at the other end of the connection, in them is believed
    recursive           of ``http_x_forwarded_for``: whether to take the last address that is not trusted (the first
                        when all are) instead of the last

What is no address is ignored. The port is not known when none is named. An IPv4 address written as IPv6 is read as one.
"""

from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from config_sync.schema.fields import check_addresses
from worker.edited_request import edit
from worker.http.client_address import address_and_port
from worker.plugins.base import Plugin, Scope
from worker.routing.route import AddressCondition
from worker.variables import accessor

if TYPE_CHECKING:
    from worker.exchange import Exchange

CHAIN = "http_x_forwarded_for"


class RealIpConfig(msgspec.Struct):
    """Where the address is, and who is believed."""

    source: Annotated[str, msgspec.Meta(min_length=1)]
    trusted_addresses: Annotated[list[str], msgspec.Meta(min_length=1)] | None = None
    recursive: bool = False


class RealIpPlugin(Plugin[RealIpConfig]):
    """Finds out who the client is."""

    name = "real-ip"
    priority = 23000
    Config = RealIpConfig

    def __init__(self, config: RealIpConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        trusted = config.trusted_addresses
        self._is_trusted = AddressCondition(tuple(trusted)).holds if trusted is not None else None
        self._source = accessor(config.source)
        self._is_chain = config.source.lower().replace("-", "_") == CHAIN
        self._chain = accessor(CHAIN)

    @classmethod
    def check(cls, config: Any) -> None:
        """Check the addresses."""
        check_addresses(config.trusted_addresses or (), "$.trusted_addresses")

    def rewrite(self, exchange: "Exchange") -> None:
        """Take over the client's address."""
        run = exchange.run
        assert run is not None  # noqa: S101 - hooks run in one
        if self._is_trusted is not None and not self._is_trusted(exchange.downstream.peer_address):
            return
        value = self._source(exchange)
        if not isinstance(value, str):
            return
        client = self._last_of(value) if self._is_chain else parsed(value)
        if client is None or client == (exchange.remote_address, exchange.remote_port):
            return
        run.client = client
        address = client[0].encode()
        before = self._chain(exchange)
        chain = f"{before}, ".encode("utf-8", "surrogateescape") if isinstance(before, str) and before else b""
        request = edit(exchange)
        request.set_upstream_field(b"X-Real-IP", address)
        request.set_upstream_field(b"X-Forwarded-For", chain + address)

    def _last_of(self, chain: str) -> tuple[str, int] | None:
        """Return the client that a chain of addresses names; None when that is no address."""
        client = None
        for entry in reversed(chain.split(",")):
            if not entry.strip():
                continue
            client = parsed(entry)
            is_trusted = self.config.recursive and self._is_trusted is not None
            if client is None or not is_trusted or not self._is_trusted(client[0]):  # type: ignore[misc]  # is there
                break
        return client


def parsed(text: str) -> tuple[str, int] | None:
    """Read ``address[:port]``; None when it is something else."""
    found = address_and_port(text.strip())
    if found is None or found[1] > 65_535 or "%" in found[0]:
        return None
    address = ip_address(found[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped), found[1]
    return found
