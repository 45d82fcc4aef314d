"""TLS towards upstreams: the settings that connections share, and what is made of them (upstreams.md sections 5 and 6).

A context costs 0.3 ms, 5 ms with a key, 30 ms with the system's authorities, so it is made in a thread, when the
first connection needs it, and shared by all upstreams with equal settings. Authorities are loaded only to verify.
Sessions are resumed: with TLS 1.2 a handshake then costs us 0.8 ms instead of 1.3, with TLS 1.3 the peer saves more.
"""

import asyncio
import hashlib
import os
import ssl
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakSet, WeakValueDictionary

from config_sync import schema
from config_sync.secrets import Place, is_reference, places_in
from config_sync.secrets import Resolver as SecretResolver
from worker.errors import CertificateInvalid, CertificateMissing
from worker.upstream.pool import Pool

if TYPE_CHECKING:
    from ssl import MemoryBIO, SSLObject, SSLSession

    from worker.upstream.endpoint import Endpoint

SYSTEM = "system"  # as ssl_trusted_certificate: the authorities of the operating system

Pairs = tuple[tuple[str, str], ...]  # certificates with their keys, PEM or references


class UpstreamContext(ssl.SSLContext):
    """A context that resumes the session of the endpoint that is connected to.

    The event loop passes on a server name and nothing else, as a plain str, and sessions belong to endpoints; so the
    name is followed by a mark that tells which.
    """

    endpoints: "WeakValueDictionary[str, Endpoint]"

    def wrap_bio(
        self,
        incoming: "MemoryBIO",
        outgoing: "MemoryBIO",
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: "SSLSession | None" = None,
    ) -> "SSLObject":
        """Take the name apart, and begin with the session that its endpoint remembers."""
        name, _, mark = str(server_hostname or "").partition("#")
        endpoint = self.endpoints.get(mark)
        if endpoint is not None and endpoint.session_of is self:
            session = endpoint.session
        return super().wrap_bio(incoming, outgoing, server_side, name or None, session)


class TlsProfile:
    """Certificate and verification of connections; ``generation`` counts the certificates it has had."""

    __slots__ = (
        "__weakref__",
        "_building",
        "_context",
        "_describe",
        "_endpoints",
        "_make",
        "_resolve",
        "generation",
        "pairs",
        "pools",
        "verify",
    )

    def __init__(
        self,
        make: "Callable[[Pairs], UpstreamContext]",
        resolve: "Callable[[Pairs], Pairs]",
        pairs: "Pairs | None",
        verify: bool,
        endpoints: "WeakValueDictionary[str, Endpoint]",
        describe: str = "client certificate",
    ) -> None:
        self.pairs = pairs  # None: a certificate is wanted and there is none
        self.verify = verify
        self.generation = 0
        self.pools: WeakSet[Pool[Any]] = WeakSet()
        self._make = make
        self._resolve = resolve
        self._endpoints = endpoints
        self._describe = describe
        self._context: UpstreamContext | None = None
        self._building: asyncio.Future[UpstreamContext] | None = None

    async def context(self, loop: asyncio.AbstractEventLoop) -> UpstreamContext:
        """Return the context; the first who asks has it made.

        Raises:
            CertificateMissing: there is no such certificate.
            CertificateInvalid: certificate, key or authorities cannot be used.
        """
        while self._context is None:
            if self.pairs is None:
                raise CertificateMissing(f"{self._describe} does not exist, is off, or is not of type client")
            generation = self.generation
            try:
                if self._building is None:
                    self._building = loop.run_in_executor(None, self._make, self._resolve(self.pairs))
                building = self._building
                context = await asyncio.shield(building)
            except (OSError, ValueError) as error:
                raise CertificateInvalid(f"{self._describe} cannot be used: {error}") from error
            finally:
                # What has failed is tried again by the next connection: a file or a secret may be there by then.
                if self._building is not None and self._building.done():
                    self._building = None
            if generation == self.generation:
                context.endpoints = self._endpoints
                self._context = context
        return self._context

    def replace(self, pairs: "Pairs | None") -> None:
        """Show another certificate from now on; connections that showed the last one are not used again."""
        if pairs == self.pairs:
            return
        self.pairs = pairs
        self.renew()

    def renew(self) -> None:
        """Make the context anew, for what certificate or key refer to is another one now."""
        self.generation += 1
        self._context = None
        self._building = None
        for pool in list(self.pools):
            for connection in pool.weeded():
                connection.close()


class TlsProfiles:
    """All profiles of a worker; equal settings are one profile."""

    def __init__(self, authorities: str = SYSTEM, secrets: SecretResolver | None = None) -> None:
        """Verify against the PEM file ``authorities``, or the system's."""
        self.endpoints: WeakValueDictionary[str, Endpoint] = WeakValueDictionary()
        self._authorities = authorities
        self._secrets = secrets or SecretResolver()
        self._profiles: WeakValueDictionary[tuple[str, bool], TlsProfile] = WeakValueDictionary()
        self._certificates: dict[str, Pairs] = {}  # ssl resources of type client

    def profile(self, tls: schema.UpstreamTls | None) -> tuple[str, TlsProfile]:
        """Return the identity of the certificate that an upstream shows, "" for none, and the profile."""
        if tls is None:
            return self._found("", False, (), "")
        if tls.client_cert_id is not None:
            id_ = str(tls.client_cert_id)
            pairs = self._certificates.get(id_)
            return self._found(f"ssl/{id_}", tls.verify, pairs, f"client certificate: ssl {id_}")
        if tls.client_cert is None or tls.client_key is None:
            return self._found("", tls.verify, (), "")
        digest = hashlib.sha256(f"{tls.client_cert}\0{tls.client_key}".encode()).hexdigest()
        return self._found(digest, tls.verify, ((tls.client_cert, tls.client_key),), "tls.client_cert")

    def _found(self, identity: str, verify: bool, pairs: "Pairs | None", describe: str) -> tuple[str, TlsProfile]:
        profile = self._profiles.get((identity, verify))
        if profile is None:

            def make(pairs: Pairs) -> UpstreamContext:
                return build_context(pairs, verify, self._authorities)

            describe = describe or "ssl.ssl_trusted_certificate"
            profile = TlsProfile(make, self._resolved, pairs, verify, self.endpoints, describe)
            self._profiles[identity, verify] = profile
            self._ask_for(pairs)
        return identity, profile

    def _ask_for(self, pairs: "Pairs | None") -> None:
        """Let secrets be fetched before somebody waits for them."""
        for text in (text for pair in pairs or () for text in pair):
            if is_reference(text):
                self._secrets.resolve(text)

    def uses_secret(self, place: Place) -> bool:
        """Tell whether a secret is referred to."""
        shown = (profile.pairs for profile in self._profiles.values())
        return any(place in places_in(pairs) for pairs in (*self._certificates.values(), *shown))

    def secret_changed(self, place: Place) -> Iterator[None]:
        """Show, in steps, what certificates and keys refer to now."""
        for profile in list(self._profiles.values()):
            if place in places_in(profile.pairs):
                profile.renew()
            yield

    def _resolved(self, pairs: Pairs) -> Pairs:
        return tuple(map(self._plain, pairs))

    def _plain(self, pair: tuple[str, str]) -> tuple[str, str]:
        plain = []
        for text in pair:
            resolved = self._secrets.resolve(text) if is_reference(text) else text
            if resolved is None:
                raise ValueError(f"nothing is known of {text}")
            plain.append(resolved)
        return plain[0], plain[1]

    def ssl_changed(self, id_: str, ssl_: schema.Ssl | None) -> None:
        """Take over an ssl resource; those of servers, and those that are off, are none here."""
        if ssl_ is not None and ssl_.type == "client" and ssl_.status:
            pairs: Pairs | None = ((ssl_.cert, ssl_.key), *zip(ssl_.certs, ssl_.keys, strict=True))
        else:
            pairs = None
        if pairs is None and self._certificates.pop(id_, None) is None:
            return
        if pairs is not None:
            self._certificates[id_] = pairs
            self._ask_for(pairs)
        for verify in (False, True):
            profile = self._profiles.get((f"ssl/{id_}", verify))
            if profile is not None:
                profile.replace(pairs)


def build_context(pairs: Pairs, verify: bool, authorities: str) -> UpstreamContext:
    """Make a context; it blocks, so it belongs in a thread.

    Raises:
        OSError: certificate, key or authorities cannot be read, or do not belong together.
    """
    context = UpstreamContext(ssl.PROTOCOL_TLS_CLIENT)
    if verify:
        if authorities == SYSTEM:
            context.load_default_certs()
        else:
            context.load_verify_locations(authorities)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    for certificate, key in pairs:
        _load_pair(context, certificate, key)
    return context


def _load_pair(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Load PEM texts; the library reads files only, so they get one in memory that nobody else sees."""
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    with open(fd, "wb") as file:
        file.write(f"{certificate}\n{key}\n".encode())
        file.flush()
        # Without a password OpenSSL would ask for that of an encrypted key on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{fd}", password=lambda: b"")


def server_name(host: bytes) -> str:
    """Return the name that TLS asks for when ``host`` is sent (RFC 6066 section 3), "" when it can be none.

    An IP address is returned too: it is not sent as SNI, but verified.
    """
    bare = host[1 : host.find(b"]")] if host.startswith(b"[") else host.partition(b":")[0]
    try:
        name = bare.decode("ascii").lower().removesuffix(".")
        name.encode("idna")
    except UnicodeError:
        return ""
    return "" if name.startswith(".") or "#" in name or "\0" in name else name
