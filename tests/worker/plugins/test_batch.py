"""The batch processor (plugins.md section 7)."""

import asyncio
import logging
from collections.abc import Sequence

import pytest

from tests.worker.plugins.receivers import until
from tests.worker.plugins.scraped import scrape, value
from worker.plugins import batch
from worker.plugins.batch import BatchConfig, BatchProcessor
from worker.plugins.testing import PluginKit


class Sink:
    """Takes batches, after a number of failures."""

    def __init__(self, failures: int = 0) -> None:
        self.batches: list[list[bytes]] = []
        self.tries = 0
        self.failures = failures
        self.gate: asyncio.Event | None = None

    async def send(self, batch: Sequence[bytes]) -> None:
        self.tries += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.tries <= self.failures:
            raise ValueError("not now")
        self.batches.append(list(batch))


def processor(kit: PluginKit, sink: Sink, max_pending: int = 100, **config: float) -> BatchProcessor:
    made = BatchConfig(**config)  # type: ignore[arg-type]
    return BatchProcessor(kit.context.plugins.services, made, sink.send, "sink", max_pending, ("r", "s"))


def test_a_full_batch_is_sent_at_once() -> None:
    sink = Sink()
    with PluginKit() as kit:
        batches = processor(kit, sink, batch_max_size=2)
        for entry in (b"1", b"2", b"3"):
            batches.add(entry)
        kit.run(until(lambda: sink.batches == [[b"1", b"2"]]))
        kit.run(batches.flush())
        assert sink.batches == [[b"1", b"2"], [b"3"]]


def test_what_waits_does_not_take_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MOST_BYTES", 4)
    sink = Sink()
    with PluginKit() as kit:
        batches = processor(kit, sink)
        for entries in ((b"12", b"345", b"34"), (b"1234",)):
            for entry in entries:
                batches.add(entry)
            kit.run(batches.flush())
        assert sink.batches == [[b"12", b"34"], [b"1234"]]


def test_an_idle_batch_is_sent() -> None:
    sink = Sink()
    with PluginKit() as kit:
        batches = processor(kit, sink, inactive_timeout=0.05)
        batches.add(b"1")
        kit.run(until(lambda: sink.batches == [[b"1"]]))


def test_an_old_batch_is_sent_though_it_grows() -> None:
    sink = Sink()
    with PluginKit() as kit:
        batches = processor(kit, sink, inactive_timeout=30, buffer_duration=0.1)

        async def feed() -> None:
            while not sink.batches:
                batches.add(b"x")
                await asyncio.sleep(0.01)

        kit.run(feed())


@pytest.mark.parametrize(("failures", "tries", "arrives"), [(2, 3, True), (3, 3, False)])
def test_failures_are_tried_again(failures: int, tries: int, arrives: bool, caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink(failures)
    with PluginKit() as kit, caplog.at_level(logging.ERROR):
        batches = processor(kit, sink, max_retry_count=2, retry_delay=0.01)
        batches.add(b"1")
        kit.run(batches.flush())
        assert (sink.tries, sink.batches) == (tries, [[b"1"]] if arrives else [])
        assert ("sink: 1 entries are lost: not now" in caplog.text) is not arrives


def test_what_waits_is_bounded_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    with PluginKit() as kit, caplog.at_level(logging.ERROR):
        sink.gate = asyncio.Event()
        batches = processor(kit, sink, 5, batch_max_size=2)
        for number in range(8):
            batches.add(b"%d" % number)
        labels = {"name": "sink", "route_id": "r", "server_addr": "s"}
        assert value(scrape(kit), "apisix_batch_process_entries", labels) == 5
        assert "1 entries are lost: too many entries wait" in caplog.text
        sink.gate.set()
        kit.run(batches.flush())
        assert sink.batches == [[b"0", b"1"], [b"2", b"3"], [b"4"]]
        assert value(scrape(kit), "apisix_batch_process_entries", labels) == 0


def test_a_closed_one_sends_what_waits_and_what_comes_late() -> None:
    sink = Sink()
    with PluginKit() as kit:
        batches = processor(kit, sink, inactive_timeout=0.05)
        batches.add(b"1")
        batches.close()
        batches.add(b"2")
        kit.run(until(lambda: sink.batches == [[b"1"], [b"2"]]))
        kit.run(until(lambda: batches not in kit.context.plugins.services.senders))


def test_the_end_of_a_worker_waits_for_so_long_only() -> None:
    sink = Sink()
    with PluginKit() as kit:
        sink.gate = asyncio.Event()
        batches = processor(kit, sink)
        batches.add(b"1")
        kit.run(kit.context.plugins.services.flush(0.05))
        assert sink.batches == []
