"""Certificates made for a test, and the contexts of servers that show and demand them."""

import ssl
from functools import cached_property
from pathlib import Path
from typing import Any

import trustme


class Certificates:
    """An authority and what it has issued."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    def write_authority(self, path: Path) -> Path:
        """Write the authority's own certificate to a file."""
        self._authority.cert_pem.write_to_path(path)
        return path

    def client(self, name: str) -> tuple[str, str]:
        """Issue a certificate for a client, and its key, as PEM."""
        issued = self._authority.issue_cert(f"{name}@clients.test", common_name=name)
        return issued.cert_chain_pems[0].bytes().decode(), issued.private_key_pem.bytes().decode()

    @cached_property
    def _server(self) -> trustme.LeafCert:
        return self._authority.issue_cert("a.com", "b.com", "localhost", "127.0.0.1", "::1")

    def write_server(self, path: Path) -> Path:
        """Write the server's certificate and key to one file."""
        self._server.private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def write_client(self, path: Path, name: str) -> Path:
        """Write certificate and key of a client to one file."""
        path.write_text("".join(self.client(name)))
        return path

    def server(self, demands_certificate: bool = False) -> ssl.SSLContext:
        """Make the context of a server that notes which name it was asked for: see ``asked_name``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.configure_cert(context)
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.sni_callback = _note_name
        if demands_certificate:
            self._authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


_names: dict[int, str | None] = {}


def _note_name(tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
    _names[id(tls)] = name


def asked_name(tls: ssl.SSLObject) -> str | None:
    """Return the name that a client asked for by SNI."""
    return _names.get(id(tls))


def shown_name(tls: ssl.SSLObject) -> str:
    """Return the common name of the certificate that a client has shown."""
    certificate = tls.getpeercert() or {}
    subject: Any = certificate["subject"]
    return next(str(value) for part in subject for key, value in part if key == "commonName")
