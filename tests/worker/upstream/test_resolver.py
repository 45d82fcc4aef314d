"""The cache of names over a real DNS server: how long answers hold, and what stays when it fails."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from dns.name import from_text

from tests.fakes.dns import DnsServer, Mood
from worker.errors import PeerUnresolved
from worker.upstream.dns import DnsClient, DnsError, NameNotFound, ServiceRecord
from worker.upstream.endpoint import Endpoint, Origin
from worker.upstream.hosts import HostsFile
from worker.upstream.pool import Pool, PoolKey
from worker.upstream.resolver import NameState, Resolver

MOODS: tuple[Mood, ...] = ("fails", "is silent", "answers")


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with DnsServer() as server:
        yield server


def run(dns: DnsServer, scenario: Callable[[Resolver], Awaitable[None]], valid: float = 0.0, ipv6: bool = True) -> None:
    """Run a scenario with a resolver that asks the server and nothing else."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        client = DnsClient(loop, [dns.address], timeout=0.3, search=False)
        resolver = Resolver(loop, client, HostsFile(loop, Path("/nonexistent")), ipv6, valid)
        try:
            await scenario(resolver)
        finally:
            resolver.close()

    uvloop.run(main())


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - other threads make it true
            await asyncio.sleep(0.01)


def test_one_question_for_all_who_wait(dns: DnsServer) -> None:
    dns.put("a.test", "A", "10.0.0.1", ttl=60)
    dns.put("a.test", "AAAA", "::1", ttl=30)

    async def scenario(resolver: Resolver) -> None:
        lookup = resolver.lookup("a.test")
        assert resolver.lookup("A.Test") is lookup
        assert lookup.address() is None
        answers = await asyncio.gather(*(lookup.resolved() for _ in range(5)))
        assert len(set(answers)) == 1
        assert lookup.address() == answers[0]
        assert lookup.addresses == {"10.0.0.1", "::1"}
        assert 29 < lookup.expires - resolver.loop.time() <= 30
        assert sorted(dns.asked) == ["a.test A", "a.test AAAA"]

    run(dns, scenario)


def test_without_ipv6_nobody_asks_for_it(dns: DnsServer) -> None:
    dns.put("a.test", "A", "10.0.0.1", ttl=60)

    async def scenario(resolver: Resolver) -> None:
        assert await resolver.lookup("a.test").resolved() == "10.0.0.1"
        assert dns.asked == ["a.test A"]

    run(dns, scenario, ipv6=False)


def test_a_time_of_ones_own_replaces_the_ttl(dns: DnsServer) -> None:
    dns.put("a.test", "A", "10.0.0.1", ttl=1)

    async def scenario(resolver: Resolver) -> None:
        lookup = resolver.lookup("a.test")
        await lookup.resolved()
        assert 99 < lookup.expires - resolver.loop.time() <= 100

    run(dns, scenario, valid=100)


def test_an_alias_may_hold_shorter_than_what_it_stands_for(dns: DnsServer) -> None:
    dns.put("a.test", "CNAME", "b.test.", ttl=5)
    dns.put("b.test", "A", "10.0.0.1", ttl=60)

    async def scenario(resolver: Resolver) -> None:
        answer = await resolver.client.addresses("a.test", ["A"])
        assert answer == (("10.0.0.1",), 5.0)

    run(dns, scenario)


def test_what_is_used_is_refreshed_before_its_end_and_what_is_not_is_let_go(dns: DnsServer) -> None:
    dns.put("used.test", "A", "10.0.0.1")
    dns.put("unused.test", "A", "10.0.0.1")

    async def scenario(resolver: Resolver) -> None:
        used, unused = resolver.lookup("used.test"), resolver.lookup("unused.test")
        await used.resolved()
        await unused.resolved()
        unused._used = False

        def is_refreshed() -> bool:
            assert used.address() == "10.0.0.1"  # never a moment without
            return dns.count("used.test A") >= 3

        await until(is_refreshed)
        assert dns.count("unused.test A") == 1
        assert unused.address() is None

    run(dns, scenario, ipv6=False)


def test_the_last_good_answer_stays_when_servers_fail(dns: DnsServer) -> None:
    dns.put("a.test", "A", "10.0.0.1")

    async def scenario(resolver: Resolver) -> None:
        lookup = resolver.lookup("a.test")
        await lookup.resolved()
        states = []
        for mood in MOODS:
            dns.mood = mood
            lookup.expires = 0.0
            assert await lookup.resolved() == "10.0.0.1"
            assert lookup.address() == "10.0.0.1"
            states.append(lookup.state)
        assert states == [NameState.STALE, NameState.STALE, NameState.KNOWN]
        dns.mood = "knows nothing"
        lookup.expires = 0.0
        with pytest.raises(PeerUnresolved, match=r"a\.test does not exist"):
            await lookup.resolved()
        assert lookup.state is NameState.NOT_FOUND

    run(dns, scenario)


def test_a_failure_is_not_asked_for_again_at_once(dns: DnsServer) -> None:
    dns.mood = "fails"

    async def scenario(resolver: Resolver) -> None:
        lookup = resolver.lookup("a.test")
        for _ in range(3):
            with pytest.raises(PeerUnresolved, match="no server can answer"):
                await lookup.resolved()
        assert dns.count("a.test A") == 1
        assert lookup.state is NameState.UNKNOWN

    run(dns, scenario)


def test_dead_addresses_are_avoided_until_the_next_answer(dns: DnsServer) -> None:
    dns.put("a.test", "A", "10.0.0.1", "10.0.0.2", "10.0.0.3", ttl=60)

    async def scenario(resolver: Resolver) -> None:
        lookup = resolver.lookup("a.test")
        seen = {await lookup.resolved()}
        for _ in range(2):
            lookup.failed(lookup.chosen)
            seen.add(lookup.chosen)
        assert seen == lookup.addresses
        lookup.failed(lookup.chosen)
        assert lookup.chosen in seen  # all are dead: one of them must do

    run(dns, scenario)


class Connection:
    def __init__(self, address: str) -> None:
        self.origin: Origin | None = Origin(address, None, 0, None)
        self.idle_since = 0.0
        self.requests = 1
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_connections_to_addresses_that_are_gone_are_closed(dns: DnsServer) -> None:
    dns.put("a.test", "A", "10.0.0.1", "10.0.0.2")

    async def scenario(resolver: Resolver) -> None:
        lookup = resolver.lookup("a.test")
        pool: Pool[Connection] = Pool(PoolKey("http", "a.test", 80, 9, 60.0, 9), Endpoint("a.test", lookup))
        lookup.pools.add(pool)
        await lookup.resolved()
        first, second = Connection("10.0.0.1"), Connection("10.0.0.2")
        assert pool.release(first)
        assert pool.release(second)
        dns.put("a.test", "A", "10.0.0.2")
        lookup.expires = 0.0
        await lookup.resolved()
        assert (first.closed, second.closed) == (True, False)
        assert not pool.release(Connection("10.0.0.1"))
        assert pool.acquire() is second

    run(dns, scenario)


def test_search_domains_are_appended(dns: DnsServer) -> None:
    dns.put("db.corp.test", "A", "10.0.0.1")

    async def main() -> None:
        for search, expected in ((True, {"10.0.0.1"}), (False, set())):
            client = DnsClient(asyncio.get_running_loop(), [dns.address], search=search)
            (await client._loaded()).search = [from_text("corp.test")]
            try:
                found = set((await client.addresses("db", ["A"])).records)
            except NameNotFound:
                found = set()
            assert found == expected

    uvloop.run(main())


def test_kinds_of_answers(dns: DnsServer) -> None:
    dns.put("a.test", "SRV", "1 2 80 b.test.", ttl=7)

    async def scenario(resolver: Resolver) -> None:
        client = resolver.client
        assert await client.services("a.test") == ((ServiceRecord(1, 2, 80, "b.test"),), 7.0)
        with pytest.raises(NameNotFound, match=r"a\.test has no A record"):
            await client.addresses("a.test", ["A"])
        with pytest.raises(DnsError, match="label"):
            await client.addresses("a" * 64 + ".test", ["A"])
        with pytest.raises(DnsError):
            await client.addresses("a..test", ["A"])

    run(dns, scenario)
