"""Discovery by DNS: ``service_name`` is a domain, with or without a port (upstreams.md section 11).

SRV records, or else all addresses, become nodes. What is known holds for as long as the records say, is asked for
again then, and stays when that fails; that there is nothing is an answer, too. The hosts file is not read.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import gcd, lcm
from typing import Literal

from config_sync import schema
from config_sync.settings import DnsDiscoverySettings
from worker.discovery.registry import Service
from worker.upstream.dns import Answer, DnsClient, DnsError, NameNotFound, ServiceRecord

log = logging.getLogger("propylon.discovery")

SHORTEST = 1.0  # seconds between two questions
LONGEST = 3600.0
RETRY_FIRST = 1.0  # seconds after a failure, doubled each time …
RETRY_LAST = 30.0  # … up to this


class DnsDiscovery:
    """Asks the servers of ``discovery.dns``, or those of resolv.conf."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, settings: DnsDiscoverySettings, timeout: float, ipv6: bool
    ) -> None:
        """Give servers ``timeout`` seconds for an answer; ask for IPv6 addresses only with ``ipv6``."""
        self._loop = loop
        self._client = DnsClient(loop, settings.servers, timeout, search=False)
        order = [kind.upper() for kind in settings.order]
        self._kinds: list[Literal["A", "AAAA"]] = []
        if "A" in order:
            self._kinds.append("A")
        if "AAAA" in order and ipv6:
            self._kinds.append("AAAA")
        places = [at for at, kind in enumerate(order) if kind in ("A", "AAAA")]
        self._srv = "SRV" in order
        self._srv_first = self._srv and (not places or order.index("SRV") < places[0])
        self._polls: set[_Poll] = set()

    def watch(self, service: Service) -> Callable[[], None]:
        """Ask for a service until what is returned is called.

        Raises:
            ValueError: its name is no domain with or without a port.
        """
        poll = _Poll(self._loop, service, self.nodes, *parse_service(service.name))
        self._polls.add(poll)

        def stop() -> None:
            self._polls.discard(poll)
            poll.stop()

        poll.start()
        return stop

    def close(self) -> None:
        """Ask nothing any more."""
        for poll in self._polls:
            poll.stop()

    async def nodes(self, domain: str, port: int | None) -> Answer[schema.Node]:
        """Find the nodes of a domain.

        Raises:
            NameNotFound: it has none.
            DnsError: that cannot be found out.
        """
        ways = [self._of_addresses] if self._kinds else []
        if self._srv:
            ways.insert(0 if self._srv_first else 1, self._of_services)
        missing: NameNotFound | None = None
        for way in ways:
            try:
                return await way(domain, port)
            except NameNotFound as error:
                missing = error
        raise missing or DnsError("discovery.dns.order names no kind of record that is asked for")

    async def _of_addresses(self, domain: str, port: int | None) -> Answer[schema.Node]:
        answer = await self._client.addresses(domain, self._kinds)
        return Answer(tuple(schema.Node(bracketed(address), 1, port) for address in answer.records), answer.ttl)

    async def _of_services(self, domain: str, port: int | None) -> Answer[schema.Node]:
        answer = await self._client.services(domain)
        targets = sorted({record.target for record in answer.records if record.target})  # "." offers nothing
        outcomes = await asyncio.gather(
            *(self._client.addresses(target, self._kinds or ["A"]) for target in targets), return_exceptions=True
        )
        addresses: dict[str, Sequence[str]] = {}
        ttl = answer.ttl
        for target, outcome in zip(targets, outcomes, strict=True):
            if isinstance(outcome, Answer):
                addresses[target] = outcome.records
                ttl = min(ttl, outcome.ttl)
            elif isinstance(outcome, DnsError):
                log.warning("a target of %s is left out: %s", domain, outcome)
            else:
                raise outcome
        if targets and not addresses:
            raise DnsError(f"no target of {domain} can be resolved")
        return Answer(service_nodes(answer.records, addresses, port), ttl)


class _Poll:
    """The questions about one service, one after the other."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        service: Service,
        find: Callable[[str, int | None], Awaitable[Answer[schema.Node]]],
        domain: str,
        port: int | None,
    ) -> None:
        self._loop = loop
        self._service = service
        self._find = find
        self._place = domain, port
        self._failures = 0
        self._is_stopped = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._timer = None
        self._task = self._loop.create_task(self._ask())

    def stop(self) -> None:
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    async def _ask(self) -> None:
        try:
            answer = await self._find(*self._place)
        except NameNotFound as error:
            self._failures = 0
            self._service.publish(())
            self._again_in(min(error.ttl, RETRY_LAST))
        except DnsError as error:
            self._failed(str(error))
        except Exception as error:
            log.exception("asking for %r failed", self._service)
            self._failed(f"{error!r}")
        else:
            self._failures = 0
            self._service.publish(answer.records)
            self._again_in(answer.ttl)

    def _failed(self, reason: str) -> None:
        self._service.fail(reason)
        self._again_in(min(RETRY_LAST, RETRY_FIRST * 2**self._failures))
        self._failures = min(self._failures + 1, 10)

    def _again_in(self, seconds: float) -> None:
        if not self._is_stopped:
            self._timer = self._loop.call_later(max(SHORTEST, min(seconds, LONGEST)), self.start)


def parse_service(name: str) -> tuple[str, int | None]:
    """Take ``domain`` or ``domain:port`` apart.

    Raises:
        ValueError: it is neither.
    """
    domain, colon, port = name.partition(":")
    if not domain or (colon and not (port.isdigit() and 1 <= int(port) <= 65535)):
        raise ValueError("is no domain, and no domain:port")
    return domain, int(port) if colon else None


def service_nodes(
    records: Sequence[ServiceRecord], addresses: Mapping[str, Sequence[str]], port: int | None
) -> tuple[schema.Node, ...]:
    """Make nodes of SRV records and the addresses of their targets; ``port``, when given, replaces theirs.

    A smaller SRV priority is a larger one of nodes. The addresses of a target share its weight evenly, and since
    weights are whole numbers, all are multiplied by what makes them so.
    """
    known = [record for record in records if addresses.get(record.target)]
    factor = lcm(*(len(addresses[record.target]) for record in known))
    weights = [max(1, record.weight) * factor // len(addresses[record.target]) for record in known]
    divisor = gcd(*weights) if factor > 1 else 1
    return tuple(
        schema.Node(bracketed(address), weight // divisor, port or record.port or None, -record.priority)
        for record, weight in zip(known, weights, strict=True)
        for address in addresses[record.target]
    )


def bracketed(address: str) -> str:
    """Write an address as hosts of nodes are written."""
    return f"[{address}]" if ":" in address else address
