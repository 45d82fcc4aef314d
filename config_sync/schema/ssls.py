"""TLS certificates (data-model.md section 11)."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema.decoding import Context, Kind
from config_sync.schema.fields import (
    CERTIFICATE_LENGTH,
    Count,
    Hosts,
    LabelledResource,
    Switch,
    check_labels,
    check_pem,
    checked_hosts,
    refuse_repeated,
)
from config_sync.schema.regexes import check_regex
from config_sync.schema.upstreams import plain_key

Protocols = Annotated[tuple[Literal["TLSv1.1", "TLSv1.2", "TLSv1.3"], ...], Meta(max_length=3)]


class ClientVerification(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which certificates clients must show; requests whose URI matches a regular expression need none."""

    ca: str
    depth: Count = 1
    skip_mtls_uri_regex: tuple[str, ...] = ()


class Ssl(LabelledResource, kw_only=True, forbid_unknown_fields=True):
    """A certificate with its key: shown to clients (``server``), or to upstreams (``client``).

    ``snis`` is filled, whichever form was written.
    """

    type: Literal["server", "client"] = "server"
    cert: str
    key: str
    sni: str | None = None
    snis: Hosts = ()
    certs: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    client: ClientVerification | None = None
    status: Switch = 1
    ssl_protocols: Protocols = ()


def _check(ssl: Ssl, context: Context) -> None:
    check_labels(ssl.labels, "$")
    _check_names(ssl)
    refuse_repeated(ssl.ssl_protocols, "$.ssl_protocols")
    check_pem(ssl.cert, CERTIFICATE_LENGTH, "$.cert")
    ssl.key = plain_key(ssl.key, "$.key", context)
    if len(ssl.certs) != len(ssl.keys):
        raise InvalidResource("$.keys", "must be as many as certs")
    for at, cert in enumerate(ssl.certs):
        check_pem(cert, CERTIFICATE_LENGTH, f"$.certs[{at}]")
    ssl.keys = tuple(plain_key(key, f"$.keys[{at}]", context) for at, key in enumerate(ssl.keys))
    if ssl.client is not None:
        check_pem(ssl.client.ca, CERTIFICATE_LENGTH, "$.client.ca")
        refuse_repeated(ssl.client.skip_mtls_uri_regex, "$.client.skip_mtls_uri_regex")
        for at, pattern in enumerate(ssl.client.skip_mtls_uri_regex):
            check_regex(pattern, f"$.client.skip_mtls_uri_regex[{at}]")


def _check_names(ssl: Ssl) -> None:
    if ssl.sni is not None:
        if ssl.snis:
            raise InvalidResource("$.snis", "must not stand beside sni")
        ssl.snis = (ssl.sni,)
    elif not ssl.snis and ssl.type == "server":
        raise InvalidResource("$", "one of sni and snis is required")
    path = "$.snis" if ssl.sni is None else "$.sni"
    ssl.snis = tuple(name.removesuffix(".") for name in checked_hosts(ssl.snis, path))


_SSL = Kind(Ssl, _check)


def decode_ssl(id_: str, raw: bytes, keyring: Keyring | None = None) -> tuple[Ssl, list[str]]:
    """Decode a value under ``ssls/``; see ``Kind.decode``."""
    return _SSL.decode(id_, raw, keyring)
