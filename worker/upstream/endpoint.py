"""Endpoint: where and how the connections of a pool are opened, when it takes more than an address and a port."""

import asyncio
import ssl
from itertools import count
from typing import TYPE_CHECKING, Protocol

from worker.errors import ConnectFailed
from worker.upstream.resolver import Lookup
from worker.upstream.tls import TlsProfile, UpstreamContext

if TYPE_CHECKING:
    from worker.upstream.tls import TlsProfiles

_marks = count()


class Origin:
    """How a connection came about; what it was made of may have changed by the time it is to be used again."""

    __slots__ = ("address", "context", "generation", "server_name", "tls")

    def __init__(self, address: str, context: UpstreamContext | None, generation: int, server_name: str | None) -> None:
        self.address = address
        self.context = context  # None: without TLS
        self.generation = generation  # of the TLS profile
        self.server_name = server_name  # for the event loop
        self.tls: ssl.SSLObject | None = None  # once connected


class Opened(Protocol):
    """What an endpoint asks of a connection."""

    origin: Origin | None
    requests: int


class Endpoint:
    """A name to be resolved, a TLS profile, or both."""

    __slots__ = ("__weakref__", "_host", "_mark", "lookup", "profile", "server_name", "session", "session_of")

    def __init__(
        self,
        host: str,
        lookup: Lookup | None,
        profile: TlsProfile | None = None,
        server_name: str = "",
        profiles: "TlsProfiles | None" = None,
    ) -> None:
        """Connect to ``host``, or to what ``lookup`` says; with ``profile`` by TLS, asking for ``server_name``."""
        self.lookup = lookup
        self.profile = profile
        self.server_name = server_name
        self.session: ssl.SSLSession | None = None
        self.session_of: ssl.SSLContext | None = None
        self._host = host
        self._mark = str(next(_marks))
        if profiles is not None:
            profiles.endpoints[self._mark] = self

    async def origin(self, loop: asyncio.AbstractEventLoop) -> Origin:
        """Find out all that it takes to open a connection.

        Raises:
            PeerUnresolved: the name has no address.
            CertificateMissing, CertificateInvalid: see ``TlsProfile.context``.
            ConnectFailed: the peer is to be verified, and there is no name to verify.
        """
        address = self._host
        if self.lookup is not None:
            address = self.lookup.address() or await self.lookup.resolved()
        profile = self.profile
        if profile is None:
            return Origin(address, None, 0, None)
        context = await profile.context(loop)
        if context.check_hostname and not self.server_name:
            raise ConnectFailed("the Host to be sent is no name that a certificate could have")
        return Origin(address, context, profile.generation, f"{self.server_name}#{self._mark}")

    def keeps(self, connection: Opened) -> bool:
        """Tell whether a connection that has finished may be used again."""
        origin = connection.origin
        if origin is None:
            return False
        if self.profile is not None:
            if origin.generation != self.profile.generation:
                return False
            if connection.requests == 1 and origin.tls is not None and not origin.tls.session_reused:
                # With TLS 1.3 there is none before the first answer. To take it costs 0.3 ms: it serves until a peer
                # wants it no more.
                self.session, self.session_of = origin.tls.session, origin.context
        return self.lookup is None or self.lookup.keeps(origin.address)

    def failed(self, origin: Origin) -> None:
        """Take note that no connection could be made."""
        self.session = None
        if self.lookup is not None:
            self.lookup.failed(origin.address)
