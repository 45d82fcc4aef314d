"""The provider between a machine, a connection and a store: what it sends and what reaches the store."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from config_sync.cache import ConfigStore, Event
from config_sync.etcd.sync import EtcdProvider
from config_sync.settings import EtcdSettings
from tests.fakes.etcd import (
    STREAM,
    FakeEtcd,
    answer,
    base64_of,
    created,
    end_of_poll,
    last_line,
    line,
    page,
    put,
    record,
    until,
)

ROUTE = {"uri": "/a", "service_id": "s"}


class Running:
    """A provider at work and what it has told."""

    def __init__(self, *urls: str, **settings: Any) -> None:
        self.store = ConfigStore()
        self.synced: list[int] = []
        self.progress: list[int] = []
        self.provider = EtcdProvider(
            EtcdSettings(host=urls, **settings),
            self.store,
            asyncio.get_running_loop(),
            self.progress.append,
        )
        self.store.observe(self)
        self.provider.start()

    def replaced(self, revision: int) -> None:
        self.synced.append(revision)

    def applied(self, events: Sequence[Event], revision: int) -> None:
        pass

    def routes(self) -> set[str]:
        return set(self.store.caches["routes"].items)


def run(script: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await script()

    asyncio.run(bounded())


def test_pages_events_and_the_next_poll_on_one_connection() -> None:
    polls: list[str] = []

    def reply(path: str, body: dict[str, Any]) -> bytes:
        if path == "/v3/kv/range" and "revision" not in body:
            return answer(page(7, record("routes/1", ROUTE, 3), more=True))
        if path == "/v3/kv/range":
            return answer(page(9, record("routes/2", ROUTE, 5)))
        polls.append(body["create_request"]["start_revision"])
        return STREAM + line(created(9))

    async def script() -> None:
        etcd = await FakeEtcd(reply).start()
        running = Running(etcd.url)
        await until(lambda: polls == ["7"], "a watch")
        assert running.synced == [7]
        assert running.routes() == {"1", "2"}
        assert etcd.requests[1][1]["key"] == base64_of(b"/apisix/routes/1\0")
        assert etcd.requests[1][1]["revision"] == "7"
        assert etcd.requests[2][1]["create_request"]["range_end"] == base64_of(b"/apisix0")
        etcd.send(line(put(9, record("routes/3", ROUTE, 9))))
        await until(lambda: running.routes() == {"1", "2", "3"}, "an event")
        etcd.send(last_line(end_of_poll()))
        await until(lambda: polls == ["7", "9"], "the next poll")
        assert running.progress == [7, 9]
        assert running.synced == [7]
        assert etcd.connections == 1
        assert running.provider.state().revision == 9
        running.provider.stop()
        await etcd.stop()

    run(script)


def test_an_empty_store_is_a_complete_one(caplog: pytest.LogCaptureFixture) -> None:
    async def script() -> None:
        etcd = await FakeEtcd(lambda path, body: answer(page(1))).start()
        running = Running(etcd.url)
        await until(lambda: running.synced == [1], "synced")
        running.provider.stop()
        await etcd.stop()

    run(script)
    assert "there are no routes under /apisix/" in caplog.text


def test_a_member_that_closes_after_every_answer_is_asked_on_new_connections() -> None:
    def reply(path: str, body: dict[str, Any]) -> bytes:
        if path == "/v3/watch":
            return STREAM + line(created(7))
        if "revision" not in body:
            return answer(page(7, record("routes/1", ROUTE, 3), more=True), close=True)
        return answer(page(7, record("routes/2", ROUTE, 5)), close=True)

    async def script() -> None:
        etcd = await FakeEtcd(reply).start()
        running = Running(etcd.url)
        await until(lambda: running.provider.state().stage == "watching", "watching")
        assert running.routes() == {"1", "2"}
        assert etcd.connections == 3
        assert running.provider.state().last_error == ""
        running.provider.stop()
        await etcd.stop()

    run(script)


def test_an_etcd_that_is_down_is_tried_again_and_complained_about_once(caplog: pytest.LogCaptureFixture) -> None:
    def reply(path: str, body: dict[str, Any]) -> bytes | None:
        if len(etcd.requests) < 6:
            return None
        return answer(page(4)) if path == "/v3/kv/range" else STREAM + line(created(4))

    async def script() -> None:
        await etcd.start()
        running = Running(etcd.url, resync_delay=0.01)
        await until(lambda: len(etcd.requests) >= 5, "some tries")
        assert running.synced == []
        assert "closed the connection" in running.provider.state().last_error
        await until(lambda: running.provider.state().stage == "watching", "watching")
        assert running.synced == [4]
        assert running.provider.state().last_error == ""
        running.provider.stop()
        await etcd.stop()

    etcd = FakeEtcd(reply)
    with caplog.at_level(logging.INFO):
        run(script)
    assert caplog.text.count("closed the connection") == 1


def test_another_member_is_asked_when_one_fails() -> None:
    def reply(path: str, body: dict[str, Any]) -> bytes:
        return answer(page(4)) if path == "/v3/kv/range" else STREAM + line(created(4))

    async def script() -> None:
        good = await FakeEtcd(reply).start()
        bad = await FakeEtcd(lambda path, body: None).start()
        running = Running(bad.url, good.url)
        await until(lambda: running.synced == [4], "synced")
        assert running.provider.state().endpoint == good.url
        running.provider.stop()
        await good.stop()
        await bad.stop()

    run(script)


def test_a_canceled_watch_is_closed_though_the_member_keeps_it_open() -> None:
    canceled = {"result": {"header": {}, "watch_id": "1", "canceled": True, "compact_revision": "44"}}

    def reply(path: str, body: dict[str, Any]) -> bytes:
        if path == "/v3/kv/range":
            return answer(page(50 if lists() > 1 else 4))
        return STREAM + line(created(50)) + (line(canceled) if lists() == 1 else b"")

    def lists() -> int:
        return etcd.paths().count("/v3/kv/range")

    async def script() -> None:
        await etcd.start()
        running = Running(etcd.url)
        await until(lambda: running.provider.state().revision == 50, "the second list")
        await until(lambda: etcd.open == 1 and etcd.connections == 2, "the first connection is closed")
        assert running.synced == [4, 50]
        running.provider.stop()
        await etcd.stop()

    etcd = FakeEtcd(reply)
    run(script)


def test_a_member_that_lags_costs_one_small_read_and_no_list() -> None:
    watches = 0

    def reply(path: str, body: dict[str, Any]) -> bytes:
        nonlocal watches
        if path == "/v3/kv/range":
            return answer(page(10))
        watches += 1
        return STREAM + line(created(3 if watches == 1 else 10))

    async def script() -> None:
        etcd = await FakeEtcd(reply).start()
        running = Running(etcd.url)
        await until(lambda: running.provider.state().stage == "watching", "watching")
        reads = [body for path, body in etcd.requests if path == "/v3/kv/range"]
        assert ["limit" in body for body in reads] == [True, False]
        assert reads[1] == {"key": base64_of(b"/apisix/"), "count_only": True}
        assert running.progress == [10]
        running.provider.stop()
        await etcd.stop()

    run(script)


def test_a_token_is_asked_for_once_and_again_when_it_is_refused() -> None:
    refused = {"error": "etcdserver: invalid auth token", "message": "etcdserver: invalid auth token", "code": 16}

    def reply(path: str, body: dict[str, Any]) -> bytes:
        if path == "/v3/auth/authenticate":
            return answer({"token": "t"})
        if path == "/v3/kv/range":
            return answer(refused, "401 Unauthorized") if etcd.paths().count(path) == 1 else answer(page(4))
        return STREAM + line(created(4))

    async def script() -> None:
        await etcd.start()
        running = Running(etcd.url, user="u", password="p")
        await until(lambda: running.provider.state().stage == "watching", "watching")
        assert etcd.paths() == [
            *("/v3/auth/authenticate", "/v3/kv/range", "/v3/auth/authenticate", "/v3/kv/range", "/v3/watch"),
        ]
        assert etcd.requests[0][1] == {"name": "u", "password": "p"}
        running.provider.stop()
        await etcd.stop()

    etcd = FakeEtcd(reply)
    run(script)


@pytest.mark.parametrize("garbage", [b"{nonsense\n", b'{"result":{"events":[{"kv":{"key":"%%"}}]}}\n'])
def test_lines_that_are_none_are_a_failure_of_the_member(garbage: bytes) -> None:
    def reply(path: str, body: dict[str, Any]) -> bytes:
        if path == "/v3/kv/range":
            return answer(page(4))
        first = etcd.paths().count("/v3/watch") == 1
        return STREAM + line(created(4)) + (b"%x\r\n%s\r\n" % (len(garbage), garbage) if first else b"")

    async def script() -> None:
        await etcd.start()
        running = Running(etcd.url)
        await until(lambda: etcd.paths().count("/v3/watch") == 2, "another watch")
        etcd.send(line(put(5, record("routes/1", ROUTE, 5))))
        await until(lambda: running.routes() == {"1"}, "an event")
        running.provider.stop()
        await etcd.stop()

    etcd = FakeEtcd(reply)
    run(script)


def test_a_provider_stopped_by_its_own_callback_asks_for_nothing_more() -> None:
    async def script() -> None:
        etcd = await FakeEtcd(lambda path, body: answer(page(4))).start()
        stopped = asyncio.Event()

        def stop(revision: int) -> None:
            provider.stop()
            stopped.set()

        settings = EtcdSettings(host=(etcd.url,))
        provider = EtcdProvider(settings, ConfigStore(), asyncio.get_running_loop(), stop)
        provider.start()
        await stopped.wait()
        await until(lambda: not etcd.open, "the connection is closed")
        assert etcd.paths() == ["/v3/kv/range"]
        assert etcd.connections == 1
        await etcd.stop()

    run(script)


@pytest.mark.parametrize(("epoch_key", "first"), [("", "/v3/watch"), ("epoch", "/v3/kv/range")])
def test_a_store_of_an_unknown_epoch_is_compared_first(epoch_key: str, first: str) -> None:
    """As when a worker takes the lead over: etcd may have been replaced just then."""

    def reply(path: str, body: dict[str, Any]) -> bytes:
        if path == "/v3/watch":
            return STREAM + line(created(7))
        return answer(page(7, record("routes/1", ROUTE, 3)))

    async def script() -> None:
        etcd = await FakeEtcd(reply).start()
        store = ConfigStore()
        store.apply((), 7)
        settings = EtcdSettings(host=(etcd.url,), epoch_key=epoch_key)
        provider = EtcdProvider(settings, store, asyncio.get_running_loop(), lambda revision: None)
        provider.start()
        await until(lambda: "/v3/watch" in etcd.paths(), "a watch")
        assert etcd.paths()[0] == first
        provider.stop()
        await etcd.stop()

    run(script)
