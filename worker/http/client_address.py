"""Who the client is, and what is told upstream of it (routing.md section 9, upstreams.md section 6).

Two settings say which peers are believed, independently: ``real_ip_from`` those that name the client in
``real_ip_header``, ``trusted_addresses`` those whose ``X-Forwarded-*`` are kept. A peer is looked at once, when it
connects; the fields of a request once for each new block of field lines.
"""

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import TYPE_CHECKING

from worker.routing.route import AddressCondition

if TYPE_CHECKING:
    from config_sync.settings import Settings
    from worker.http.framing import RequestFields

_KEPT = re.compile(rb"(?i)\n(x-forwarded-proto|x-forwarded-host|x-forwarded-port|forwarded):[ \t]*([^\r]*)")
_SEPARATORS = re.compile(r"[, \t]+")
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?")


class Forwarded(Enum):
    """What becomes of the ``X-Forwarded-*`` and ``Forwarded`` that a peer sends."""

    REPLACED = "replaced"  # but for X-Forwarded-For, which is continued
    KEPT = "kept"
    DROPPED = "dropped"  # X-Forwarded-For, too


class RealIp:
    """Finds the client's address in a field that the peers of ``real_ip_from`` set."""

    __slots__ = ("_find", "_is_recursive", "_is_trusted")

    def __init__(self, header: str, trusted: AddressCondition, is_recursive: bool) -> None:
        self._find = re.compile(rb"(?i)\n" + re.escape(header.encode()) + rb":[ \t]*([^\r]*)").findall
        self._is_trusted = trusted.holds
        self._is_recursive = is_recursive

    def client(self, block: bytes, address: str, port: int) -> tuple[str, int]:
        """Return the client's address and port (0: unknown), given those of a peer that is believed.

        The field is read from its end: its last address, or with ``real_ip_recursive`` the last that is not itself in
        ``real_ip_from``. What is no address ends the search.
        """
        values = self._find(block)
        if not values:
            return address, port
        chain = _SEPARATORS.split(b",".join(values).decode("latin-1").strip(" \t,"))
        for entry in reversed(chain):
            found = address_and_port(entry)
            if found is None:
                break
            address, port = found
            if not self._is_recursive or not self._is_trusted(address):
                break
        return address, port


def address_and_port(text: str) -> tuple[str, int] | None:
    """Read ``address``, ``address:port`` or ``[address]:port``, with port 0 for none; None for anything else."""
    found = _WITH_PORT.fullmatch(text)
    host, port = (found[1] or found[2], int(found[3] or 0)) if found is not None else (text, 0)
    try:
        return str(ip_address(host)), port
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Trust:
    """What a peer is believed."""

    real_ip: RealIp | None
    forwarded: Forwarded


class Trusts:
    """From the address of a peer to what it is believed; one for a worker."""

    __slots__ = ("_believed", "_forwarders", "_real_ip", "_real_ip_from")

    def __init__(self, settings: "Settings") -> None:
        sources = tuple(source for source in settings.real_ip_from if source != "unix:")
        self._real_ip_from = AddressCondition(sources)
        self._real_ip: RealIp | None = None
        if settings.real_ip_header and sources:
            self._real_ip = RealIp(settings.real_ip_header, self._real_ip_from, settings.real_ip_recursive)
        self._forwarders = AddressCondition(settings.trusted_addresses) if settings.trusted_addresses else None
        self._believed = {
            (real_ip, kind): Trust(real_ip, kind) for real_ip in (None, self._real_ip) for kind in Forwarded
        }

    def of(self, address: str) -> Trust:
        """Return what the peer at an address is believed."""
        real_ip = self._real_ip if self._real_ip is not None and self._real_ip_from.holds(address) else None
        if self._forwarders is None:
            forwarded = Forwarded.REPLACED
        else:
            forwarded = Forwarded.KEPT if self._forwarders.holds(address) else Forwarded.DROPPED
        return self._believed[real_ip, forwarded]


def forwarded_lines(
    fields: "RequestFields", block: bytes, policy: Forwarded, client: bytes, scheme: bytes, host: bytes, port: bytes
) -> bytes:
    """Compose the field lines that tell an upstream who the client is and what it asked for."""
    chain = fields.forwarded_for if policy is not Forwarded.DROPPED else b""
    rest = b""
    if policy is Forwarded.KEPT:
        # The first of each is what upstreams read.
        kept = {name.lower(): value.rstrip(b" \t") for name, value in reversed(_KEPT.findall(block))}
        scheme = kept.get(b"x-forwarded-proto", scheme)
        host = kept.get(b"x-forwarded-host", host)
        port = kept.get(b"x-forwarded-port", port)
        if b"forwarded" in kept:
            values = [value.rstrip(b" \t") for name, value in _KEPT.findall(block) if name.lower() == b"forwarded"]
            rest = b"Forwarded: %b\r\n" % b", ".join(values)
    return (
        b"X-Real-IP: %b\r\nX-Forwarded-For: %b%b\r\nX-Forwarded-Proto: %b\r\n"
        b"X-Forwarded-Host: %b\r\nX-Forwarded-Port: %b\r\n%b"
    ) % (client, chain + b", " if chain else b"", client, scheme, host, port, rest)
