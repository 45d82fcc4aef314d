"""The snapshot in the life of a process: loaded before anything, refused with a word, and fit to serve or not."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from config_sync import snapshot
from config_sync.cache import ConfigStore, Entry
from config_sync.guard import Guard
from config_sync.last_good import LastGood
from config_sync.settings import GuardSettings
from config_sync.status import Held, SyncStatus
from tests.fakes.etcd import until

GOOD = b'{"uri": "/a", "upstream": {"nodes": {"127.0.0.1:80": 1}}}'


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "SETTLE", 0.01)
    monkeypatch.setattr(snapshot, "LOCK_RETRY", 0.02)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.snapshot"


def run(script: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await script()

    asyncio.run(bounded())


def put(key: str, revision: int, value: bytes = GOOD) -> Entry:
    return Entry(key, value, revision, revision, 1)


def rewrite(path: Path, damage: Callable[[bytes], bytes]) -> None:
    path.write_bytes(damage(path.read_bytes()))


class Process:
    """A store and its snapshot; in ``async with`` as long as the process lives."""

    def __init__(self, path: Path, prefix: str = "/apisix", guard: Guard | None = None) -> None:
        self.path = path
        self.store = ConfigStore(guard=guard)
        self.last_good = LastGood(path, prefix, self.store, asyncio.get_running_loop())

    async def __aenter__(self) -> "Process":
        await self.last_good.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.last_good.stop()
        await self.last_good.stopped()

    def listed(self, revision: int, *entries: Entry) -> None:
        """Take what etcd has."""
        arriving = self.store.receive()
        for _ in (*arriving.add(entries), *arriving.complete(revision)):
            pass

    async def saved(self) -> None:
        await until(lambda: self.path.exists() and self.is_on_disk(), "it is on disk")

    def is_on_disk(self) -> bool:
        store = ConfigStore()
        try:
            data = snapshot.read_snapshot(self.path, "/apisix")
        except snapshot.SnapshotError:
            return False
        for _ in snapshot.load_snapshot(data, store):
            pass
        return (store.revision, store.digests) == (self.store.changed, self.store.digests)

    def routes(self) -> set[str]:
        return set(self.store.caches["routes"].items)


def test_without_a_file_the_store_is_empty_and_not_stale(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script() -> None:
        caplog.set_level("INFO")
        async with Process(path) as process:
            assert (process.store.revision, process.store.stale) == (0, False)
            assert not process.last_good.may_serve([])
            assert "there is no saved configuration yet" in caplog.text
            process.listed(3, put("routes/1", 2))
            await process.saved()

    run(script)


def test_what_one_process_had_the_next_one_has_until_etcd_tells(path: Path) -> None:
    async def script() -> None:
        async with Process(path) as first:
            first.listed(3, put("routes/1", 2), put("routes/2", 3))
            await first.saved()
        async with Process(path) as second:
            assert second.routes() == {"1", "2"}
            assert second.store.stale
            assert second.last_good.may_serve([])
            second.listed(4, put("routes/1", 2))
            assert second.routes() == {"1"}
            assert not second.store.stale
            assert not second.last_good.may_serve([]), "there is no more need to"
            await second.saved()

    run(script)


@pytest.mark.parametrize(("others", "may"), [([], True), ([3], True), ([2, 3], True), ([3, 4], False)])
def test_it_serves_only_when_nobody_serves_what_is_newer(path: Path, others: list[int], may: bool) -> None:
    async def script() -> None:
        async with Process(path) as first:
            first.listed(90, put("routes/1", 3))
            await first.saved()
        async with Process(path) as second:
            assert second.last_good.may_serve([serving(changed) for changed in others]) is may


def serving(changed: int, **digests: int) -> SyncStatus:
    """What another process tells of itself."""
    return SyncStatus(changed, changed, digests, {}, 0.0, "", "", "", 0, 0, False, None)


def test_it_serves_what_is_equal_whenever_that_has_changed(path: Path) -> None:
    async def script() -> None:
        async with Process(path) as first:
            first.listed(90, put("routes/1", 3))
            await first.saved()
        async with Process(path) as second:
            equal = serving(80, **{name: digest for name, digest in second.store.digests.items() if digest})
            assert second.last_good.may_serve([equal])
            assert not second.last_good.may_serve([serving(80, routes=1)])

    run(script)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-1], "checksum"),
        (lambda data: b"", "format"),
        (lambda data: data.replace(b"/apisix", b"/others"), "checksum"),
    ],
)
def test_a_damaged_file_is_ignored_with_a_word_and_written_anew(
    path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes], reason: str
) -> None:
    async def script() -> None:
        async with Process(path) as first:
            first.listed(3, put("routes/1", 2))
            await first.saved()
        await asyncio.to_thread(rewrite, path, damage)
        async with Process(path) as second:
            assert (second.routes(), second.store.stale) == (set(), False)
            (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
            assert line.startswith(f"{path}: is ")
            assert reason in line
            assert line.endswith("; it is not used, and will be written anew")
            second.listed(3, put("routes/1", 2))
            await second.saved()

    run(script)


def test_a_file_of_another_prefix_is_ignored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script() -> None:
        async with Process(path) as first:
            first.listed(3, put("routes/1", 2))
            await first.saved()
        async with Process(path, prefix="/other") as second:
            assert second.routes() == set()
            assert "is of the prefix /apisix, not of /other" in caplog.text

    run(script)


def test_the_guard_sees_what_an_emptied_store_would_remove(path: Path) -> None:
    async def script() -> None:
        async with Process(path) as first:
            first.listed(30, *(put(f"routes/{n}", n + 2) for n in range(20)))
            await first.saved()
        async with Process(path, guard=Guard(GuardSettings(), lambda: 5.0)) as second:
            second.listed(1)
            assert second.store.held == Held(20, 20, 5.0)
            assert second.store.stale
            assert len(second.routes()) == 20

    run(script)


def test_a_value_that_is_not_valid_keeps_its_last_good_one(path: Path) -> None:
    async def script() -> None:
        async with Process(path) as first:
            first.listed(2, put("routes/1", 2))
            first.store.apply([Entry("routes/1", b"{", 3, 2, 2)], 3)
            await first.saved()
        async with Process(path) as second:
            second.listed(3, Entry("routes/1", b"{", 3, 2, 2))
            value = second.store.value("routes", "1")
            assert value is not None
            assert value.uris == ("/a",)
            assert set(second.store.rejected) == {"routes/1"}

    run(script)


def test_a_file_that_somebody_else_writes_is_noticed_and_loaded_again(path: Path) -> None:
    async def script() -> None:
        async with Process(path) as first:
            first.listed(3, put("routes/1", 2), put("routes/2", 3))
            await first.saved()
            async with Process(path) as second:
                assert not await second.last_good.has_changed()
                first.store.apply([put("routes/3", 5)], 5)
                await first.saved()
                assert await second.last_good.has_changed()
                assert not second.last_good.may_serve([serving(5)])
                await second.last_good.load()
                assert not await second.last_good.has_changed()
                assert second.last_good.may_serve([serving(5)])
                assert second.store.digests == first.store.digests

    run(script)


def test_a_load_that_is_broken_off_leaves_nothing_behind(path: Path) -> None:
    async def script() -> None:
        async with Process(path) as first:
            first.listed(30, *(put(f"routes/{n}", n + 2) for n in range(500)))
            await first.saved()
        second = Process(path)
        loading = asyncio.create_task(second.last_good.load())
        while not second.last_good._stepper.is_busy():  # noqa: ASYNC110 - seen in every round of the loop
            await asyncio.sleep(0)
        second.last_good.stop()
        loading.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert (second.store.revision, second.routes()) == (0, set())

    run(script)
