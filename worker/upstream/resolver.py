"""Names of nodes: a cache of addresses that keeps itself fresh (upstreams.md section 2).

    UNKNOWN ──► KNOWN ◄──► STALE        STALE: the last good answer, because a refresh has failed
       │          ▲
       ▼          ▼
      NOT_FOUND ──┘

A name is looked up when the first connection needs it. As long as connections use it, it is looked up again before
its answer ends, so that nobody waits; one that nobody has used since is let go and looked up anew when it is needed.
At most one look-up of a name is under way. When addresses leave the answer, the pools of the name are told, so that
their idle connections to those are closed.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from enum import Enum
from typing import Any, Literal
from weakref import WeakSet, WeakValueDictionary

from worker.errors import PeerUnresolved
from worker.upstream.dns import Answer, DnsClient, DnsError, NameNotFound
from worker.upstream.hosts import CHECK_INTERVAL, HostsFile
from worker.upstream.pool import Pool

log = logging.getLogger("propylon.resolver")

SHORTEST = 1.0  # seconds that any answer holds, whatever its TTL
LONGEST = 3600.0  # seconds: longer TTLs are a mistake more often than not
LEAD = 0.2  # of the time an answer holds: so much before its end it is asked for again
RETRY_FIRST = 1.0  # seconds until a failed look-up is repeated, doubled each time …
RETRY_LAST = 30.0  # … up to this


class NameState(Enum):
    """What is known of a name."""

    UNKNOWN = "unknown"
    KNOWN = "known"
    STALE = "stale"
    NOT_FOUND = "not found"


class Lookup:
    """One name: its addresses, and the one that connections are opened to until the next answer."""

    __slots__ = (
        "__weakref__",
        "_failed",
        "_failures",
        "_resolver",
        "_task",
        "_timer",
        "_used",
        "addresses",
        "chosen",
        "expires",
        "name",
        "pools",
        "reason",
        "state",
    )

    def __init__(self, name: str, resolver: "Resolver") -> None:
        self.name = name
        self.state = NameState.UNKNOWN
        self.addresses: frozenset[str] = frozenset()
        self.chosen = ""
        self.expires = 0.0  # by the loop's clock
        self.reason = ""  # why there is no address, or none that is fresh
        self.pools: WeakSet[Pool[Any]] = WeakSet()
        self._resolver = resolver
        self._failed: set[str] = set()  # of the present answer
        self._failures = 0  # look-ups in a row that brought no answer
        self._used = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def address(self) -> str | None:
        """Return the address to connect to, or None: then ``resolved`` is to be awaited."""
        self._used = True
        return self.chosen if self.chosen and self._resolver.loop.time() < self.expires else None

    async def resolved(self) -> str:
        """Return the address to connect to, after a look-up unless what is known still holds.

        Raises:
            PeerUnresolved: there is none.
        """
        if self._resolver.loop.time() >= self.expires:
            await asyncio.shield(self._look_up())
        if not self.chosen:
            raise PeerUnresolved(f"cannot resolve {self.name}: {self.reason}")
        self._used = True
        return self.chosen

    def keeps(self, address: str) -> bool:
        """Tell whether a connection to an address may be used again; it counts as use of the name."""
        self._used = True
        return address in self.addresses

    def failed(self, address: str) -> None:
        """Prefer the other addresses of this answer: nobody answers on this one."""
        self._failed.add(address)
        if address == self.chosen:
            self._choose()

    def _choose(self) -> None:
        candidates = [address for address in self.addresses if address not in self._failed] or list(self.addresses)
        self.chosen = random.choice(candidates) if candidates else ""  # noqa: S311 - load is spread, nothing is hidden

    def _look_up(self) -> "asyncio.Task[None]":
        if self._task is None:
            self._cancel_timer()
            self._task = self._resolver.loop.create_task(self._ask())
        return self._task

    async def _ask(self) -> None:
        try:
            answer = await self._resolver.ask(self.name)
        except NameNotFound as error:
            self._failures = 0
            self._take((), max(SHORTEST, min(error.ttl, RETRY_LAST)), NameState.NOT_FOUND, str(error))
        except DnsError as error:
            self._keep(str(error))
        except Exception as error:
            log.exception("looking up %s failed", self.name)
            self._keep(f"{error!r}")
        else:
            self._failures = 0
            self._take(answer.records, answer.ttl, NameState.KNOWN, "")
        finally:
            self._task = None

    def _take(self, addresses: Sequence[str], ttl: float, state: NameState, reason: str) -> None:
        before = self.addresses
        self._set_state(state, reason)
        self.addresses = frozenset(addresses)
        self._failed.clear()
        self._choose()
        self._hold_for(ttl)
        if before - self.addresses:
            for pool in list(self.pools):
                for connection in pool.weeded():
                    connection.close()

    def _keep(self, reason: str) -> None:
        """Go on with the last good answer, if there is one."""
        self._set_state(NameState.STALE if self.addresses else NameState.UNKNOWN, reason)
        self._hold_for(min(RETRY_LAST, RETRY_FIRST * 2**self._failures))
        self._failures = min(self._failures + 1, 10)

    def _set_state(self, state: NameState, reason: str) -> None:
        if reason and (reason != self.reason or state is not self.state):
            known = f"; goes on with {', '.join(sorted(self.addresses))}" if state is NameState.STALE else ""
            log.warning("cannot resolve %s: %s%s", self.name, reason, known)
        elif self.reason and not reason:
            log.info("%s resolves again", self.name)
        self.state, self.reason = state, reason

    def _hold_for(self, seconds: float) -> None:
        loop = self._resolver.loop
        self.expires = loop.time() + seconds
        self._used = False
        self._cancel_timer()
        if self.addresses and not self._resolver.is_closed:
            # Spread, so that what was looked up together is not always looked up together.
            lead = LEAD * seconds * (0.5 + 0.5 * random.random())  # noqa: S311
            self._timer = loop.call_at(self.expires - lead, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._used:
            self._look_up()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close(self) -> None:
        """Look it up no more."""
        self._cancel_timer()
        if self._task is not None:
            self._task.cancel()

    def __repr__(self) -> str:
        """Show name, state and addresses."""
        return f"<Lookup {self.name} {self.state.value} {sorted(self.addresses)}>"


class Resolver:
    """All names of a worker."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: DnsClient,
        hosts: HostsFile,
        ipv6: bool = True,
        valid: float = 0.0,
    ) -> None:
        """Ask ``hosts`` first, then ``client``; answers hold for ``valid`` seconds (0: as long as their TTL says)."""
        self.loop = loop
        self.client = client
        self.kinds: tuple[Literal["A", "AAAA"], ...] = ("A", "AAAA") if ipv6 else ("A",)
        self.is_closed = False
        self._hosts = hosts
        self._valid = valid
        self._lookups: WeakValueDictionary[str, Lookup] = WeakValueDictionary()

    def prepare(self) -> None:
        """Load what takes long, if there are names."""
        if self._lookups:
            self.client.load()

    def lookup(self, name: str) -> Lookup:
        """Return the look-up of a name, which all who ask for it share."""
        name = name.lower()
        found = self._lookups.get(name)
        if found is None:
            found = self._lookups[name] = Lookup(name, self)
        return found

    async def ask(self, name: str) -> Answer[str]:
        """Find the addresses of a name, in the hosts file or else by DNS.

        Raises:
            NameNotFound, DnsError: there is none.
        """
        addresses = await self._hosts.addresses(name, "AAAA" in self.kinds)
        if addresses:
            return Answer(addresses, CHECK_INTERVAL)
        answer = await self.client.addresses(name, self.kinds)
        return Answer(answer.records, self.time_of(answer.ttl))

    def time_of(self, ttl: float) -> float:
        """Return for how many seconds an answer with a TTL holds."""
        return self._valid or max(SHORTEST, min(ttl, LONGEST))

    def close(self) -> None:
        """Look up nothing more."""
        self.is_closed = True
        for lookup in list(self._lookups.values()):
            lookup.close()
