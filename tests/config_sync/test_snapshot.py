"""The snapshot on disk: whole or refused, one writer, and nothing in it that is not in etcd."""

import asyncio
import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import stat
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config_sync import schema, snapshot
from config_sync.cache import ConfigStore, Deletion, Entry, Event, key_of
from config_sync.encryption import Keyring
from config_sync.snapshot import (
    FORMAT,
    Header,
    Record,
    SnapshotError,
    SnapshotWriter,
    encode_block,
    load_snapshot,
    read_snapshot,
)
from config_sync.status import Held
from tests.config_sync.schema.values import KEYS, encrypted
from tests.fakes.etcd import until
from tests.fakes.processes import wait_until

DECODERS = schema.decoders()
PREFIX = "/apisix"
GOOD = b'{"uri": "/a", "upstream": {"nodes": {"127.0.0.1:80": 1}}}'
BAD = b'{"uri": 5}'


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "SETTLE", 0.01)
    monkeypatch.setattr(snapshot, "LOCK_RETRY", 0.02)
    monkeypatch.setattr(snapshot, "WRITE_RETRY", 0.02)


def run(script: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await script()

    asyncio.run(bounded())


def put(key: str, value: bytes, revision: int, version: int = 1) -> Entry:
    return Entry(key, value, revision, revision - version + 1, version)


def filled(*events: Event) -> ConfigStore:
    store = ConfigStore(DECODERS)
    for event in events:
        store.apply([event], event.mod_revision)
    return store


def content(store: ConfigStore) -> dict[str, object]:
    """What two equal stores have in common."""
    return {
        "items": {key_of(name, id_): item for name, cache in store.caches.items() for id_, item in cache.items.items()},
        "digests": store.digests,
        "rejected": {key: (found.path, found.reason, found.revision) for key, found in store.rejected.items()},
    }


def inode(path: Path) -> int:
    return path.stat().st_ino if path.exists() else 0


async def write(path: Path, store: ConfigStore) -> None:
    """Write a store to disk, as a worker does."""
    writer = SnapshotWriter(path, PREFIX, store, asyncio.get_running_loop())
    before = inode(path)
    writer.replaced(store.revision)
    await until(lambda: inode(path) not in (0, before), "the file")
    writer.stop()
    await writer.stopped()


def written(path: Path, store: ConfigStore) -> Path:
    run(lambda: write(path, store))
    return path


def loaded(path: Path, prefix: str = PREFIX) -> ConfigStore:
    store = ConfigStore(DECODERS)
    for _ in load_snapshot(read_snapshot(path, prefix), store):
        pass
    return store


IDS = st.sampled_from(["1", "2", "a.b-c", "é", "x/credentials/y", b"\xff".decode("utf-8", "surrogateescape")])
HISTORY = st.lists(
    st.tuples(
        st.sampled_from(["routes", "upstreams", "consumers", "plugins"]), IDS, st.sampled_from([GOOD, BAD, b"", None])
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(HISTORY)
def test_what_is_written_and_loaded_is_equal(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, str, bytes | None]]
) -> None:
    """Values that are not valid and the last good ones of them, in any directory and with any id."""
    events: list[Event] = []
    for revision, (directory, id_, value) in enumerate(history, 2):
        key = "plugins" if directory == "plugins" else f"{directory}/{id_}"
        events.append(Deletion(key, revision) if value is None else put(key, value, revision))
    store = filled(*events)
    with patch.object(snapshot, "SETTLE", 0.001):
        again = loaded(written(tmp_path_factory.mktemp("s") / "snapshot", store))
    assert content(again) == content(store)
    assert (again.revision, again.changed) == (store.changed, store.changed)
    assert again.stale
    assert again.held is None


def test_several_blocks(tmp_path: Path) -> None:
    store = filled(*(put(f"routes/{n}", GOOD, n + 2) for n in range(2 * snapshot.BLOCK + 1)))
    assert content(loaded(written(tmp_path / "snapshot", store))) == content(store)


def test_a_last_good_value_outlives_several_processes(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    store = filled(put("routes/1", GOOD, 2), put("routes/1", BAD, 3, 2), put("routes/2", BAD, 4))
    for _ in range(3):
        written(path, store)
        store = loaded(path)
        store.stale = False
        assert store.caches["routes"].items["1"].good == GOOD
        assert store.caches["routes"].items["1"].raw == BAD
        assert store.caches["routes"].items["2"].good is None
        assert set(store.rejected) == {"routes/1", "routes/2"}


def test_it_is_stale_from_the_instant_it_is_visible(tmp_path: Path) -> None:
    path = written(tmp_path / "snapshot", filled(put("routes/1", GOOD, 2)))
    store = ConfigStore(DECODERS)
    for _ in load_snapshot(read_snapshot(path, PREFIX), store):
        assert store.stale == bool(store.revision)
    assert store.stale


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = written(tmp_path / "snapshot", filled(put("routes/1", GOOD, 2)))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_secrets_that_are_encrypted_in_etcd_are_encrypted_on_disk(tmp_path: Path) -> None:
    secret = "a password that nobody may read"
    hidden = encrypted(secret)
    value = json.dumps({"username": "jack", "plugins": {"basic-auth": {"username": "j", "password": hidden}}}).encode()
    with_keys = schema.decoders(Keyring(KEYS))
    decoded, _ = with_keys["consumers"]("jack", value)
    assert secret in repr(decoded.plugins), "it is decrypted where it is used"
    store = ConfigStore(with_keys)
    store.apply([put("consumers/jack", value, 2)], 2)
    data = written(tmp_path / "snapshot", store).read_bytes()
    assert secret.encode() not in data
    assert hidden.encode() in data


# refusing


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    store = filled(put("routes/1", GOOD, 2), put("routes/1", BAD, 3, 2), put("upstreams/u", b"{}", 4))
    return written(tmp_path_factory.mktemp("whole") / "snapshot", store).read_bytes()


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(SnapshotError) as refused:
        read_snapshot(path, PREFIX)
    return str(refused.value)


def test_every_truncation_is_refused(whole: bytes, tmp_path: Path) -> None:
    for length in range(len(whole)):
        assert refusal(tmp_path / "cut", whole[:length])
    assert refusal(tmp_path / "longer", whole + b"\0")
    assert refusal(tmp_path / "twice", whole + whole)


def test_every_flipped_byte_is_refused(whole: bytes, tmp_path: Path) -> None:
    for at in range(len(whole)):
        for mask in (0x01, 0x80, 0xFF):
            data = bytearray(whole)
            data[at] ^= mask
            assert refusal(tmp_path / "flipped", bytes(data))


def test_a_refusal_says_what_is_wrong(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    assert "format" in refusal(path, b"")
    assert "format" in refusal(path, whole.replace(b"snapshot 1", b"snapshot 2"))
    assert "checksum" in refusal(path, whole[:-1])
    path.write_bytes(whole)
    with pytest.raises(SnapshotError, match="of the prefix /apisix, not of /other"):
        read_snapshot(path, "/other")
    with pytest.raises(FileNotFoundError):
        read_snapshot(tmp_path / "none", PREFIX)
    with pytest.raises(SnapshotError, match="cannot be read: Is a directory"):
        read_snapshot(tmp_path, PREFIX)


def test_what_is_whole_but_no_records_leaves_the_store_alone(tmp_path: Path) -> None:
    good = Record(b"routes/1", GOOD, 2, 2, 1)
    body = FORMAT + encode_block(Header(PREFIX, 2)) + encode_block([good]) + encode_block([7]) + bytes(4)
    path = tmp_path / "snapshot"
    path.write_bytes(body + hashlib.sha256(body).digest())
    store = filled(put("routes/9", GOOD, 2))
    before = content(store)
    with pytest.raises(SnapshotError, match="is damaged"):
        list(load_snapshot(read_snapshot(path, PREFIX), store))
    assert content(store) == before
    assert not store.stale


def test_a_header_that_is_none(tmp_path: Path) -> None:
    body = FORMAT + encode_block(7) + bytes(4)
    assert "damaged" in refusal(tmp_path / "snapshot", body + hashlib.sha256(body).digest())


# writing


def test_changes_are_written_when_they_have_settled(tmp_path: Path) -> None:
    async def script() -> None:
        path, store = tmp_path / "snapshot", filled()
        writer = SnapshotWriter(path, PREFIX, store, asyncio.get_running_loop())
        for revision in range(2, 20):
            store.apply([put("routes/1", GOOD, revision, revision - 1)], revision)
        store.apply((), 30)
        await until(path.exists, "the file")
        assert loaded(path).revision == 19
        before = inode(path)
        store.apply((), 40)
        store.apply([Deletion("routes/1", 41)], 41)
        await until(lambda: inode(path) != before, "the next one")
        again = loaded(path)
        assert (again.revision, again.caches["routes"].items) == (41, {})
        writer.stop()
        await writer.stopped()

    run(script)


def test_keys_that_are_no_resources_are_no_reason_to_write(tmp_path: Path) -> None:
    """As the heartbeats that other gateways write below the same prefix."""

    async def script() -> None:
        path, store = tmp_path / "snapshot", filled()
        writer = SnapshotWriter(path, PREFIX, store, asyncio.get_running_loop())
        store.apply([put("routes/1", GOOD, 2)], 2)
        await until(lambda: path.exists() and writer._task is None, "the file")
        store.apply([put("data_plane/server_info/x", b"{}", 3)], 3)
        assert (store.revision, store.changed) == (3, 2)
        assert (writer._timer, writer._task) == (None, None)
        store.apply([put("routes/2", GOOD, 4), put("gen_id", b"7", 4)], 4)
        await until(lambda: loaded(path).revision == 4, "the next change")
        writer.stop()
        await writer.stopped()

    run(script)


def test_changes_without_end_are_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "SETTLE_AT_MOST", 0.1)

    async def script() -> None:
        path, store, revision = tmp_path / "snapshot", filled(), 1
        writer = SnapshotWriter(path, PREFIX, store, asyncio.get_running_loop())

        def is_written() -> bool:
            nonlocal revision
            revision += 1
            store.apply([put("routes/1", GOOD, revision)], revision)
            return path.exists()

        await until(is_written, "the file")
        writer.stop()
        await writer.stopped()

    run(script)


def test_what_changes_while_it_is_being_written_is_written_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script() -> None:
        path, store = tmp_path / "snapshot", filled(put("routes/1", GOOD, 2))
        loop = asyncio.get_running_loop()
        writer = SnapshotWriter(path, PREFIX, store, loop)
        begin = snapshot._SnapshotFile.begin

        def changed_meanwhile(file: snapshot._SnapshotFile, head: bytes) -> None:
            monkeypatch.undo()
            done = asyncio.run_coroutine_threadsafe(change(), loop)
            done.result(10)
            begin(file, head)

        async def change() -> None:
            store.apply([put("routes/2", GOOD, 3)], 3)

        monkeypatch.setattr(snapshot._SnapshotFile, "begin", changed_meanwhile)
        writer.replaced(2)
        await until(lambda: path.exists() and loaded(path).revision == 3, "both changes")
        assert set(loaded(path).caches["routes"].items) == {"1", "2"}
        writer.stop()
        await writer.stopped()

    run(script)


def test_what_is_stale_is_not_written(tmp_path: Path) -> None:
    async def script() -> None:
        path, store = tmp_path / "snapshot", filled(put("routes/1", GOOD, 2))
        store.stale = True
        writer = SnapshotWriter(path, PREFIX, store, asyncio.get_running_loop())
        writer.replaced(2)
        looks = 0
        settle = writer._settle

        def counted(seen: int) -> None:
            nonlocal looks
            looks += 1
            settle(seen)

        writer._settle = counted  # type: ignore[method-assign]
        await until(lambda: looks > 3, "it looks in")
        assert not path.exists()
        store.stale = False
        await until(path.exists, "the file")
        writer.stop()
        await writer.stopped()

    run(script)


def test_what_is_live_is_written_while_a_reload_is_held_back(tmp_path: Path) -> None:
    """Else a change just before an etcd is emptied would never get there, and no new worker could serve it."""

    async def script() -> None:
        path, store = tmp_path / "snapshot", filled(put("routes/1", GOOD, 2))
        store.held = Held(20, 20, 1.0)
        await write(path, store)
        assert loaded(path).revision == 2

    run(script)


def test_one_of_several_writes_and_another_when_it_ends(tmp_path: Path) -> None:
    async def script() -> None:
        path, loop = tmp_path / "snapshot", asyncio.get_running_loop()
        one, other = filled(put("routes/1", GOOD, 2)), filled(put("routes/2", GOOD, 3))
        first = SnapshotWriter(path, PREFIX, one, loop)
        first.replaced(2)
        await until(lambda: path.exists() and first._task is None, "the file")
        second = SnapshotWriter(path, PREFIX, other, loop)
        second.replaced(3)
        for turn in range(4):
            one.apply([put("routes/1", GOOD, 4 + turn)], 4 + turn)
            await until(lambda: loaded(path).revision == 4 + turn, "the first goes on to write")  # noqa: B023
        first.stop()
        await until(lambda: loaded(path).revision == 3, "the second has taken over")
        one.apply([put("routes/1", GOOD, 9)], 9)
        assert first._timer is None, "who has stopped does not come back"
        second.stop()
        await second.stopped()

    run(script)


def test_the_lock_is_held_until_the_thread_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A successor that began before would have its unfinished file put in place by us."""

    async def script() -> None:
        path, loop = tmp_path / "snapshot", asyncio.get_running_loop()
        begun, gate = asyncio.Event(), threading.Event()
        fsync = os.fsync

        def slow(descriptor: int) -> None:
            loop.call_soon_threadsafe(begun.set)
            gate.wait(20)
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", slow)
        writer = SnapshotWriter(path, PREFIX, filled(put("routes/1", GOOD, 2)), loop)
        writer.replaced(2)
        await begun.wait()
        writer.stop()
        await asyncio.sleep(0)
        with (tmp_path / "snapshot.lock").open("ab") as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gate.set()
            await writer.stopped()
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert loaded(path).revision == 2
        assert not (tmp_path / "snapshot.part").exists()

    run(script)


def test_a_disk_that_is_full_costs_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([OSError(28, "No space left on device")] * 2)
    finish = snapshot._SnapshotFile.finish

    def full(file: snapshot._SnapshotFile) -> None:
        for failure in failures:
            raise failure
        finish(file)

    monkeypatch.setattr(snapshot._SnapshotFile, "finish", full)
    caplog.set_level(logging.ERROR)
    path = written(tmp_path / "snapshot", filled(put("routes/1", GOOD, 2)))
    assert loaded(path).revision == 2
    assert caplog.text.count("cannot be written: No space left on device") == 2


def test_no_place_for_it_is_said_and_nothing_else_happens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def script() -> None:
        path = tmp_path / "none" / "snapshot"
        writer = SnapshotWriter(path, PREFIX, filled(put("routes/1", GOOD, 2)), asyncio.get_running_loop())
        writer.replaced(2)
        await until(lambda: "its lock cannot be opened: No such file" in caplog.text, "a message")
        path.parent.mkdir()
        await until(path.exists, "the file, once there is a place")
        writer.stop()
        await writer.stopped()

    run(script)


def _write_and_hang(path: Path, gate: str) -> None:
    """Write a second snapshot in a process of its own, which hangs half-way."""
    fsync = os.fsync

    def hang(descriptor: int) -> None:
        Path(gate).touch()
        time.sleep(60)
        fsync(descriptor)

    async def script() -> None:
        snapshot.SETTLE = 0.01
        if gate.endswith("fsync"):
            os.fsync = hang  # type: ignore[assignment]
        else:
            setattr(snapshot._SnapshotFile, "write", lambda file, data: hang(0))  # noqa: B010 - mypy knows no way
        store = filled(*(put(f"routes/{n}", GOOD, n + 2) for n in range(500)))
        SnapshotWriter(path, PREFIX, store, asyncio.get_running_loop()).replaced(600)
        await asyncio.sleep(60)

    run(script)


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_writer_that_is_killed_half_way_leaves_the_old_file_whole(tmp_path: Path, where: str) -> None:
    old = filled(put("routes/1", GOOD, 2))
    path = written(tmp_path / "snapshot", old)
    gate = tmp_path / f"at-{where}"
    process = multiprocessing.get_context("spawn").Process(target=_write_and_hang, args=(path, str(gate)))
    process.start()
    try:
        wait_until(gate.exists, "it has got half-way")
        assert (tmp_path / "snapshot.part").exists()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.join()
    assert content(loaded(path)) == content(old)
    new = filled(put("routes/2", GOOD, 700))
    assert content(loaded(written(path, new))) == content(new), "the lock is free, and what was left is no obstacle"
    assert not (tmp_path / "snapshot.part").exists()


def test_records_are_what_they_were(whole: bytes) -> None:
    """The format is of this version; one that reads or writes another must say so in its first line."""
    body = whole[len(FORMAT) : -32]
    size = int.from_bytes(body[:4], "big")
    assert msgspec.msgpack.decode(body[4 : 4 + size]) == [PREFIX, 4]
    rest = body[4 + size :]
    size = int.from_bytes(rest[:4], "big")
    assert msgspec.msgpack.decode(rest[4 : 4 + size]) == [[b"routes/1", BAD, 3, 2, 2, GOOD]]
