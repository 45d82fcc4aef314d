"""Types and checks that several kinds of resources share (data-model.md section 2)."""

import re
import socket
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from config_sync.errors import InvalidResource
from config_sync.secrets import is_reference

HOST = re.compile(r"\*|\*?[0-9a-zA-Z\-._\[\]:]+")
ID = re.compile(r"[a-zA-Z0-9\-_.]{1,64}")
# Characters. What many values share is looked at once and remembered, so it must not be long.
_LONGEST_HOST = 320
_LABEL = re.compile(r"\S+")
_LONGEST_LABEL = 256
_LONGEST_SHOWN = 80

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""The empty object that all resources share."""

INTEGERS_TOO = {"integers_too": True}
"""What marks, in ``Meta.extra``, a text that may be written as an integer."""

Id = Annotated[str, Meta(pattern=rf"^{ID.pattern}\Z", extra=INTEGERS_TOO)] | None
Name = Annotated[str, Meta(min_length=1, max_length=256)] | None
Description = Annotated[str, Meta(max_length=256)] | None
Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[float, Meta(gt=0)]
AtLeastZero = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
CountFromOne = Annotated[int, Meta(ge=1)]
Switch = Annotated[int, Meta(ge=0, le=1)]

Host = Annotated[str, Meta(pattern=rf"^({HOST.pattern})\Z")]
Hosts = Annotated[tuple[str, ...], Meta(min_length=1)]
Addresses = Annotated[tuple[str, ...], Meta(min_length=1)]

CERTIFICATE_LENGTH = (128, 65536)
KEY_LENGTH = (64, 65536)


class Resource(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every resource has; ``id`` is the part of the key after the directory, times are epoch seconds."""

    id: Id = None
    create_time: int | None = None
    update_time: int | None = None


class LabelledResource(Resource, kw_only=True, forbid_unknown_fields=True):
    """A resource with a description."""

    desc: Description = None
    labels: dict[str, Any] | None = None


class NamedResource(LabelledResource, kw_only=True, forbid_unknown_fields=True):
    """A resource with a name."""

    name: Name = None


class Timeout(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Seconds for the steps towards a peer; ``send`` and ``read`` are between two successive operations."""

    connect: Positive
    send: Positive
    read: Positive


def shown(text: str) -> str:
    """Quote a text for a message, not in full when it is long."""
    return repr(text) if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]!r}..."


def check_labels(labels: Mapping[str, Any] | None, path: str) -> None:
    """Check the values of labels."""
    if labels is None:
        return
    for name, label in labels.items():
        if not isinstance(label, str) or len(label) > _LONGEST_LABEL or not _is_label(label):
            raise InvalidResource(f"{path}.labels[{shown(name)}]", "must be 1 to 256 characters without white space")


@lru_cache(maxsize=4096)
def _is_label(text: str) -> bool:
    return _LABEL.fullmatch(text) is not None


def checked_hosts(hosts: tuple[str, ...], path: str) -> tuple[str, ...]:
    """Check host patterns; returns them in lower case, each once."""
    if len(hosts) > 1:
        refuse_repeated(hosts, path)
        return tuple(dict.fromkeys([_checked_host(host, path) for host in hosts]))
    return (_checked_host(hosts[0], path),) if hosts else ()


def _checked_host(host: str, path: str) -> str:
    lowered = _lowered_host(host) if len(host) <= _LONGEST_HOST else None
    if lowered is None:
        raise InvalidResource(path, f"{shown(host)} is no host pattern")
    return lowered


@lru_cache(maxsize=8192)
def _lowered_host(host: str) -> str | None:
    return host.lower() if HOST.fullmatch(host) is not None else None


def refuse_repeated(values: Sequence[str], path: str) -> None:
    """Refuse a list with the same entry twice."""
    if len(values) > 1 and len(set(values)) != len(values):
        raise InvalidResource(path, "has the same entry twice")


def check_addresses(addresses: Sequence[str], path: str) -> None:
    """Check that all are IPv4 or IPv6 addresses or networks in CIDR form."""
    for address in addresses:
        if not _is_network(address):
            raise InvalidResource(path, f"{shown(address)} is no address or network")


def _is_network(text: str) -> bool:
    """Tell whether this is an address, or one with the length of a prefix."""
    address, slash, bits = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if not _is_of(family, address):
        return False
    longest = 128 if family == socket.AF_INET6 else 32
    return not slash or (bits.isascii() and bits.isdigit() and len(bits) <= 3 and int(bits) <= longest)


def is_ipv6(text: str) -> bool:
    """Tell whether this is an IPv6 address, without brackets and zone."""
    return ":" in text and _is_of(socket.AF_INET6, text)


def _is_of(family: socket.AddressFamily, address: str) -> bool:
    try:
        socket.inet_pton(family, address)
    except (OSError, ValueError):  # ValueError: a null character, or half of a surrogate pair
        return False
    return True


def check_pem(text: str | None, length: tuple[int, int], path: str) -> None:
    """Check the length of a certificate or key; a reference to a secret is not checked."""
    if text is not None and not length[0] <= len(text) <= length[1] and not is_reference(text):
        raise InvalidResource(path, f"must have {length[0]} to {length[1]} characters, or be a reference to a secret")


def refuse_lua(code: str | None, path: str) -> None:
    """Refuse a field that holds Lua."""
    if code is not None:
        raise InvalidResource(path, "Lua is not supported; use vars or a plugin instead")
