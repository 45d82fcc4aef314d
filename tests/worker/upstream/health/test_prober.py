"""The prober: whom it probes, whose states it keeps, and what it makes of reports."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.worker.upstream.health.test_lease import Free
from tests.worker.upstream.health.test_probe import serving
from tests.worker.upstream.health.test_registry import use
from worker.upstream.health.lease import Lease
from worker.upstream.health.machine import Report, State, Status
from worker.upstream.health.prober import KEEP_ORPHANS, Prober
from worker.upstream.health.registry import CheckRegistry
from worker.upstream.health.reports import Run
from worker.upstream.health.table import NOWHERE, SEQUENCE, HealthTable

ONE = {"interval": 1, "tcp_failures": 1, "http_failures": 1, "timeouts": 1}


class Setting:
    """A table, a registry and a prober, and a clock that is moved by hand."""

    def __init__(self, table: HealthTable | None = None) -> None:
        self.table = table or HealthTable(2)
        self.registry = CheckRegistry(self.table)
        self.lease = Lease(self.table, 0, Free())
        self.prober: Prober
        self.now = 0.0

    def begin(self) -> None:
        self.lease.keep(time.monotonic_ns())
        loop = asyncio.get_running_loop()
        self.prober = Prober(self.registry, self.lease, lambda: 2, loop)
        self.now = loop.time()
        self.tick()

    def tick(self, later: float = 0.0) -> None:
        self.now += later
        self.prober.tick(self.now)
        while self.registry.refresh():
            pass

    def slot(self, host: str) -> int:
        return next((self.table.find(key) for key, it in self.registry.targets.items() if it.host == host), NOWHERE)

    def report(self, host: str, report: Report, times: int, generation: int | None = None) -> None:
        slot = self.slot(host)
        if generation is None:
            generation = self.table.generation_at(slot)
        self.table.ring(1).put(Run(slot, generation, report, times))


def run(script: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await script()

    asyncio.run(main())


def test_reports_of_workers_count_with_the_limits_of_passive_checks() -> None:
    async def script() -> None:
        setting = Setting()
        use(setting.registry, "a", "b")
        setting.begin()
        setting.report("a", Report.HTTP_FAILURE, 4)
        setting.tick()
        assert setting.table.state_at(setting.slot("a")) is State.MOSTLY_HEALTHY
        setting.report("a", Report.HTTP_FAILURE, 1)
        setting.tick()
        assert setting.table.state_at(setting.slot("a")) is State.UNHEALTHY
        assert setting.table.state_at(setting.slot("b")) is State.HEALTHY

    run(script)


def test_reports_about_a_former_target_of_the_slot_do_not_count() -> None:
    async def script() -> None:
        setting = Setting()
        use(setting.registry, "a")
        setting.begin()
        setting.report("a", Report.TCP_FAILURE, 9, generation=77)
        setting.tick()
        assert setting.table.state_at(setting.slot("a")) is State.HEALTHY

    run(script)


def test_a_state_outlives_its_upstream_for_a_while() -> None:
    async def script() -> None:
        setting = Setting()
        upstream, _ = use(setting.registry, "a")
        setting.begin()
        slot = setting.slot("a")
        setting.report("a", Report.TCP_FAILURE, 2)
        setting.tick()
        assert upstream.checker is not None
        setting.registry.leave(upstream.checker)
        setting.tick()
        setting.tick(KEEP_ORPHANS - 1)
        again, told = use(setting.registry, "a")
        assert told.unhealthy == [["a"]]
        setting.tick()
        setting.tick(KEEP_ORPHANS + 1)
        assert setting.slot("a") == slot
        assert again.checker is not None
        setting.registry.leave(again.checker)
        setting.tick()
        setting.tick(KEEP_ORPHANS + 1)
        assert setting.table.occupied() == {}

    run(script)


def test_who_takes_over_keeps_the_states_and_forgets_what_nobody_has() -> None:
    async def script() -> None:
        first = Setting()
        use(first.registry, "a")
        use(first.registry, "b", resource="upstreams/2")
        first.begin()
        first.report("a", Report.TCP_FAILURE, 2)
        first.tick()
        first.prober.stop()
        first.lease.give_up()
        second = Setting(first.table)
        _, told = use(second.registry, "a")
        assert told.unhealthy == [["a"]]
        second.begin()
        assert len(second.table.occupied()) == 2
        second.tick(KEEP_ORPHANS + 1)
        assert second.table.occupied() == {key: second.slot("a") for key in second.registry.targets}
        assert second.table.state_at(second.slot("a")) is State.UNHEALTHY

    run(script)


def test_who_takes_over_tells_of_what_the_former_one_died_before_telling() -> None:
    async def script() -> None:
        setting = Setting()
        _, told = use(setting.registry, "a")
        setting.begin()
        sequence = setting.table.sequence
        setting.table.write(setting.slot("a"), Status(State.UNHEALTHY))
        setting.table.words[SEQUENCE] = sequence
        setting.lease.give_up()
        setting.begin()
        assert told.unhealthy[-1] == ["a"]

    run(script)


def test_a_prober_that_has_lost_the_lease_neither_takes_targets_nor_lets_them_go() -> None:
    async def script() -> None:
        setting = Setting()
        upstream, _ = use(setting.registry, "a")
        setting.begin()
        assert Lease(setting.table, 1, Free()).keep(time.monotonic_ns() + 2 * 10**9)
        assert upstream.checker is not None
        setting.registry.leave(upstream.checker)
        use(setting.registry, "b")
        occupied = setting.table.occupied()
        setting.tick()
        setting.tick(KEEP_ORPHANS + 1)
        assert setting.table.occupied() == occupied

    run(script)


def test_a_prober_without_the_lease_writes_nothing() -> None:
    async def script() -> None:
        setting = Setting()
        use(setting.registry, "a")
        setting.begin()
        setting.lease.give_up()
        setting.report("a", Report.TCP_FAILURE, 9)
        setting.tick()
        assert setting.table.state_at(setting.slot("a")) is State.HEALTHY

    run(script)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_probes_at_a_time_than_configured(concurrency: int) -> None:
    async def script() -> None:
        now, most, total = 0, 0, 0
        done = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal now, most, total
            now += 1
            total += 1
            most = max(most, now)
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.02)
            now -= 1
            writer.write(b"HTTP/1.1 500 No\r\n\r\n")
            await writer.drain()
            if total == 12:
                done.set()

        setting = Setting()
        async with serving(talk, "0.0.0.0") as port:
            checks: Any = {"active": {"port": port, "concurrency": concurrency, "timeout": 10, "unhealthy": ONE}}
            use(setting.registry, *[f"127.0.0.{at}" for at in range(1, 13)], checks=checks)
            setting.begin()
            setting.tick(1.1)
            async with asyncio.timeout(20):
                await done.wait()
            setting.prober.stop()
        assert (most, total) == (concurrency, 12)

    run(script)
