"""DnsClient: questions to DNS servers, over dnspython, without blocking the event loop.

dnspython and not c-ares, because c-ares caches answers for their TTL, and pycares gives no way to switch that off:
``dns_resolver_valid`` could not be shorter, and a refresh before the end would get the old answer again. What that
costs: a look-up takes 0.7 ms of CPU for each kind of record, in several steps. The library is imported in a thread,
and only when there are names, for that takes 60 ms and 6 MB; if names are configured at the start, before the first
client is served.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from config_sync.settings import parse_server

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

TRY_TIME = 2.0  # seconds for one server
RELOAD_INTERVAL = 60.0  # seconds: resolv.conf may change
PAYLOAD = 1232  # bytes of UDP that pass unfragmented (DNS flag day 2020)

T = TypeVar("T")
Kind = Literal["A", "AAAA", "SRV"]


class DnsError(Exception):
    """No answer: servers that are silent, refuse, or have failed themselves; what was known before may still hold."""


class NameNotFound(DnsError):
    """The answer is that there is nothing: no such name, or no record of that kind."""

    def __init__(self, reason: str, ttl: float) -> None:
        """Say so for ``ttl`` seconds."""
        super().__init__(reason)
        self.ttl = ttl


class Answer(NamedTuple, Generic[T]):
    """Records of one kind, which hold for ``ttl`` seconds."""

    records: tuple[T, ...]
    ttl: float


class ServiceRecord(NamedTuple):
    """An SRV record (RFC 2782)."""

    priority: int
    weight: int
    port: int
    target: str


class DnsClient:
    """Asks the given servers, or those of resolv.conf."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        servers: Sequence[str] = (),
        timeout: float = 5.0,
        search: bool = True,
    ) -> None:
        """Ask ``servers`` (``address``, ``address:port``, ``[v6]:port``).

        ``timeout``: seconds for all tries together; ``search``: whether the search domains of resolv.conf are appended.
        """
        self._loop = loop
        self._servers = tuple(servers)
        self._timeout = timeout
        self._search = search
        self._loading: asyncio.Future[Resolver] | None = None
        self._loaded_at = 0.0

    async def addresses(self, name: str, kinds: Sequence[Literal["A", "AAAA"]]) -> Answer[str]:
        """Return the addresses of a name, of all kinds asked for together.

        Raises:
            NameNotFound: it has none.
            DnsError: nobody has answered.
        """
        outcomes = await asyncio.gather(*(self._ask(name, kind) for kind in kinds), return_exceptions=True)
        answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
        if not answers:
            raise _worst(outcomes)
        records = dict.fromkeys(record.address for answer in answers for record in answer.records)
        return Answer(tuple(records), min(answer.ttl for answer in answers))

    async def services(self, name: str) -> Answer[ServiceRecord]:
        """Return the SRV records of a name.

        Raises:
            NameNotFound: it has none.
            DnsError: nobody has answered.
        """
        answer = await self._ask(name, "SRV")
        records = (
            ServiceRecord(one.priority, one.weight, one.port, one.target.to_text(omit_final_dot=True))
            for one in answer.records
        )
        return Answer(tuple(records), answer.ttl)

    async def _ask(self, name: str, kind: Kind) -> Answer[Any]:
        resolver = await self._loaded()
        import dns.exception
        import dns.resolver

        try:
            answer = await resolver.resolve(name, kind, raise_on_no_answer=False, search=self._search)
        except dns.resolver.NXDOMAIN as error:
            ttl = min((response_ttl(response) for response in error.kwargs["responses"].values()), default=0.0)
            raise NameNotFound(f"{name} does not exist", ttl) from error
        except dns.resolver.LifetimeTimeout as error:
            raise DnsError(f"no answer on {name} {kind} within {self._timeout:g} s") from error
        except dns.resolver.NoNameservers as error:
            raise DnsError(f"no server can answer on {name} {kind}") from error
        except (dns.exception.DNSException, OSError, UnicodeError) as error:
            raise DnsError(f"{name} {kind}: {error or type(error).__name__}") from error
        if answer.rrset is None:
            raise NameNotFound(f"{name} has no {kind} record", response_ttl(answer.response))
        ttl = min(float(answer.rrset.ttl), float(answer.chaining_result.minimum_ttl))
        return Answer(tuple(answer.rrset), ttl)

    def load(self) -> None:
        """Load the library and resolv.conf already now, without waiting for it."""
        if self._loading is None:
            self._loaded_at = self._loop.time()
            self._loading = self._loop.run_in_executor(None, self._load)

    async def _loaded(self) -> "Resolver":
        now = self._loop.time()
        if self._loading is None or (self._loading.done() and now - self._loaded_at > RELOAD_INTERVAL):
            self._loaded_at = now
            self._loading = self._loop.run_in_executor(None, self._load)
        return await asyncio.shield(self._loading)

    def _load(self) -> "Resolver":
        import dns.asyncresolver
        import dns.nameserver
        import dns.rdtypes.ANY.CNAME
        import dns.rdtypes.ANY.SOA
        import dns.rdtypes.IN.A
        import dns.rdtypes.IN.AAAA
        import dns.rdtypes.IN.SRV
        import dns.resolver

        try:
            resolver = dns.asyncresolver.Resolver()
        except dns.resolver.NoResolverConfiguration:
            resolver = dns.asyncresolver.Resolver(configure=False)
        if self._servers:
            resolver.nameservers = [
                dns.nameserver.Do53Nameserver(address, port) for address, port in map(parse_server, self._servers)
            ]
        resolver.lifetime = self._timeout
        resolver.timeout = min(TRY_TIME, self._timeout)
        resolver.use_edns(0, 0, PAYLOAD)
        return resolver


def response_ttl(response: Any) -> float:
    """Return how long a negative answer holds: by its SOA (RFC 2308 section 5), 0 without."""
    for rrset in response.authority:
        for record in rrset:
            if hasattr(record, "minimum"):
                return float(min(rrset.ttl, record.minimum))
    return 0.0


def _worst(outcomes: Sequence[object]) -> BaseException:
    """Choose what to raise of several failures: that somebody says no counts only when nobody is silent."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    return next((error for error in errors if not isinstance(error, NameNotFound)), errors[0])
