"""Several workers of one node in one process, over real sockets and locks; the store they watch is made up."""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop

from config_sync.cache import ConfigStore, Deletion, Entry, Event
from config_sync.digest import MODULUS, record_hash
from config_sync.errors import SettingsError
from config_sync.provider import ProviderState
from config_sync.relay import provider as provider_module
from config_sync.relay.election import Lock, connect, listen
from config_sync.relay.follower import total_digest
from config_sync.relay.history import History
from config_sync.relay.messages import (
    Batch,
    Compare,
    FrameSplitter,
    FromLeader,
    Hello,
    Record,
    Welcome,
    frame,
    pack_digest,
    read_from_leader,
)
from config_sync.relay.provider import TRANSITIONS, RelayProvider, Role
from config_sync.status import Held
from tests.fakes.etcd import until

ROUTE = b'{"uri": "/a", "upstream": {"nodes": {"127.0.0.1:80": 1}}}'
BROKEN = b'{"uri": '


class Truth:
    """A store with a history, and everybody who watches it."""

    def __init__(self) -> None:
        self.revision = 1
        self.entries: dict[str, Entry] = {}
        self.log: list[Event] = []
        self.watches: list[Watch] = []
        self.is_reachable = True

    def put(self, *keys: str, value: bytes = ROUTE) -> None:
        """Write keys in one transaction."""
        self.revision += 1
        for key in keys:
            before = self.entries.get(key)
            create = before.create_revision if before is not None else self.revision
            version = before.version + 1 if before is not None else 1
            self.entries[key] = Entry(key, value, self.revision, create, version)
            self.log.append(self.entries[key])
        self.tell()

    def delete(self, key: str) -> None:
        self.revision += 1
        del self.entries[key]
        self.log.append(Deletion(key, self.revision))
        self.tell()

    def compact(self) -> None:
        """Whoever asks for what was before gets a snapshot."""
        self.log.clear()

    def tell(self) -> None:
        for watch in list(self.watches):
            watch.deliver()

    def digest(self) -> int:
        return sum(record_hash(entry.key, entry.mod_revision, entry.value) for entry in self.entries.values()) % MODULUS


class Watch:
    """What an EtcdProvider is to the relay."""

    def __init__(self, truth: Truth, store: ConfigStore, on_progress: Callable[[int], None]) -> None:
        self.truth = truth
        self.store = store
        self.on_progress = on_progress
        self.snapshots = 0

    def start(self) -> None:
        self.truth.watches.append(self)
        self.deliver()

    def stop(self) -> None:
        if self in self.truth.watches:
            self.truth.watches.remove(self)

    def step_down(self) -> None:
        pass

    def stand_again(self) -> None:
        pass

    def state(self) -> ProviderState:
        stage = "watching" if self.truth.is_reachable else "waiting"
        return ProviderState(stage, "etcd", self.store.revision, "", 0)

    def deliver(self) -> None:
        truth, store = self.truth, self.store
        if not truth.is_reachable:
            return
        oldest = truth.log[0].mod_revision if truth.log else truth.revision + 1
        if 0 < oldest - 1 <= store.revision <= truth.revision and not store.stale:
            store.apply([event for event in truth.log if event.mod_revision > store.revision], truth.revision)
        else:
            self.snapshots += 1
            incoming = store.receive()
            for _ in [*incoming.add(list(truth.entries.values())), *incoming.complete(truth.revision)]:
                pass
        self.on_progress(truth.revision)


class Worker:
    """One worker of the node."""

    def __init__(self, directory: Path, truth: Truth) -> None:
        self.store = ConfigStore()
        self.progress: list[int] = []
        self.watched = 0
        self.relay = RelayProvider(
            directory,
            "test",
            lambda on_progress: Watch(truth, self.store, on_progress),
            self.store,
            asyncio.get_running_loop(),
            self.progress.append,
        )

    def routes(self) -> set[str]:
        return set(self.store.caches["routes"].items)

    def holds(self, truth: Truth) -> bool:
        return self.store.revision == truth.revision and total_digest(self.store) == truth.digest()


class Node:
    """Workers, the first of whom leads."""

    def __init__(self, directory: Path, truth: Truth, count: int) -> None:
        self.truth = truth
        self.workers = [Worker(directory, truth) for _ in range(count)]

    def __enter__(self) -> "Node":
        for worker in self.workers:
            worker.relay.start()
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.relay.stop()

    def leaders(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.relay.role is Role.LEADING]

    async def agree(self) -> None:
        await until(lambda: all(worker.holds(self.truth) for worker in self.workers), "all hold what the store holds")

    async def remove_leader(self, end: Callable[[Worker], None]) -> None:
        [leader] = self.leaders()
        self.workers.remove(leader)
        end(leader)
        await until(lambda: len(self.leaders()) == 1, "somebody else leads")


def run(script: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await script()
            await asyncio.sleep(0)  # closed transports say so in the next round

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def crash(worker: Worker) -> None:
    """End as a process does that is killed: the socket's file stays."""
    path = worker.relay._path
    path.rename(path.with_suffix(".kept"))
    worker.relay.stop()
    path.with_suffix(".kept").rename(path)


def test_one_watches_and_all_hold_the_same(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        truth.put("routes/1", "upstreams/1")
        with Node(tmp_path, truth, 3) as node:
            await node.agree()
            assert [worker.relay.role for worker in node.workers] == [Role.LEADING, Role.FOLLOWING, Role.FOLLOWING]
            assert len(truth.watches) == 1
            seen: list[int] = []
            node.workers[2].store.subscribe(lambda changes: seen.append(len(changes)))
            truth.put("routes/1", "routes/2", "routes/3", value=ROUTE.replace(b"/a", b"/b"))
            truth.delete("routes/2")
            await node.agree()
            assert seen == [3, 1], "a revision becomes visible at one instant"
            assert node.workers[1].progress[-1] == truth.revision
            assert node.workers[1].relay.state().stage == "following"
            assert node.workers[0].relay.state().stage == "leading: watching"

    run(script)


def test_who_comes_later_gets_what_it_lacks(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        truth.put(*(f"routes/{number}" for number in range(3000)))
        with Node(tmp_path, truth, 2) as node:
            await node.agree()
            late = Worker(tmp_path, truth)
            node.workers.append(late)
            late.relay.start()
            await node.agree()
            late.relay.stop()
            truth.put(*(f"routes/{number}" for number in range(100)))
            replaced: list[int] = []
            again = Worker(tmp_path, truth)
            again.store = late.store  # a worker that was away for a while
            again.relay = RelayProvider(
                tmp_path,
                "test",
                lambda _: Watch(truth, late.store, print),
                late.store,
                asyncio.get_running_loop(),
                print,
            )
            late.store.observe(Observer(replaced))
            node.workers[-1] = again
            again.relay.start()
            await node.agree()
            assert replaced == [], "the batches were enough"

    run(script)


class Observer:
    """Counts snapshots."""

    def __init__(self, replaced: list[int]) -> None:
        self._replaced = replaced

    def applied(self, events: Sequence[Event], revision: int) -> None:
        pass

    def replaced(self, revision: int) -> None:
        self._replaced.append(revision)


@pytest.mark.parametrize("end", [crash, lambda worker: worker.relay.stop()], ids=["crash", "stop"])
def test_leaders_go_under_writes_and_nothing_is_lost(tmp_path: Path, end: Callable[[Worker], None]) -> None:
    async def script() -> None:
        truth, chance = Truth(), random.Random(4)
        truth.put("routes/0")
        with Node(tmp_path, truth, 4) as node:
            await node.agree()
            snapshots = [Observer([]) for _ in node.workers]
            for worker, observer in zip(node.workers, snapshots, strict=True):
                worker.store.observe(observer)

            async def write() -> None:
                while True:
                    truth.put(*{f"routes/{chance.randrange(50)}" for _ in range(chance.randrange(1, 5))})
                    await asyncio.sleep(0.001)

            writing = asyncio.create_task(write())
            for _ in range(3):
                await node.remove_leader(end)
                await asyncio.sleep(0.05)  # some writes by the new one
            writing.cancel()
            await node.agree()
            assert len(truth.watches) == 1
            assert not any(observer._replaced for observer in snapshots), "everybody went on from where it stood"
            assert all(worker.relay.state().incidents == 0 for worker in node.workers)

    run(script)


def test_who_steps_down_follows_and_never_leads_again(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        truth.put("routes/1")
        with Node(tmp_path, truth, 2) as node:
            await node.agree()
            first, second = node.workers
            first.relay.step_down()
            assert first.relay.role is Role.FOLLOWING
            await until(lambda: second.relay.role is Role.LEADING, "the other one leads")
            truth.put("routes/2")
            await node.agree()
            assert len(truth.watches) == 1
            second.relay.stop()
            await asyncio.sleep(3 * provider_module.POLL)  # in which it could have taken the lock
            assert first.relay.role is Role.FOLLOWING

    run(script)


def test_a_silent_leader_is_done_without_until_it_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "SILENCE", 0.5)

    async def script() -> None:
        truth = Truth()
        truth.put("routes/1")
        lock = Lock(tmp_path / "sync-test.lock")
        assert lock.take()
        silent = listen(tmp_path / "sync-test.sock")  # the kernel accepts, and nobody says anything
        with Node(tmp_path, truth, 2) as node:
            await until(lambda: all(worker.relay.role is Role.ALONE for worker in node.workers), "both are alone")
            await node.agree()
            truth.put("routes/2")
            await node.agree()
            assert len(truth.watches) == 2
            assert "no leader has been heard" in node.workers[0].relay.state().last_error
            silent.close()
            lock.release()
            await until(lambda: len(node.leaders()) == len(truth.watches) == 1, "one leads, one follows")
            assert {worker.relay.role for worker in node.workers} == {Role.LEADING, Role.FOLLOWING}
            truth.put("routes/3")
            await node.agree()
            assert [worker.relay.state().last_error for worker in node.workers] == ["", ""]

    run(script)


def test_values_that_are_not_valid_keep_the_last_good_one_in_new_workers_too(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        truth.put("routes/1")
        with Node(tmp_path, truth, 2) as node:
            await node.agree()
            truth.put("routes/1", value=BROKEN)
            await node.agree()
            new = Worker(tmp_path, truth)
            node.workers.append(new)
            new.relay.start()
            await node.agree()
            for worker in node.workers:
                item = worker.store.caches["routes"].items["1"]
                assert (item.raw, item.good) == (BROKEN, ROUTE)
                assert list(worker.store.rejected) == ["routes/1"]
            truth.put("routes/1", value=ROUTE)
            await node.agree()
            assert not any(worker.store.rejected for worker in node.workers)

    run(script)


def test_a_store_that_went_back_takes_all_back(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        for number in range(20):
            truth.put(f"routes/{number}")
        with Node(tmp_path, truth, 3) as node:
            await node.agree()
            truth.revision, truth.entries, truth.log = 5, {}, []
            truth.put("routes/new")
            await node.agree()
            assert [worker.routes() for worker in node.workers] == [{"new"}] * 3

    run(script)


def test_a_follower_that_differs_is_healed_and_it_is_counted(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        truth.put("routes/1", "routes/2")
        with Node(tmp_path, truth, 2) as node:
            await node.agree()
            follower = node.workers[1]
            follower.store.apply([Deletion("routes/2", truth.revision)], truth.revision)
            truth.put("routes/3")
            await node.agree()
            assert follower.routes() == {"1", "2", "3"}
            assert follower.relay.state().incidents == 1

    run(script)


def test_what_was_loaded_from_disk_is_compared_with_the_leader(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        truth.put("routes/1")
        truth.is_reachable = False
        node = Node(tmp_path, truth, 2)
        for worker in node.workers:
            worker.store.apply([Entry("routes/old", ROUTE, 1, 1, 1)], 1)
            worker.store.stale = True
            worker.relay.replaced(1)
        with node:
            await asyncio.sleep(2 * provider_module.POLL)  # in which they could have agreed on the old
            assert [worker.store.stale for worker in node.workers] == [True, True]
            truth.is_reachable = True
            truth.tell()
            await node.agree()
            assert [worker.store.stale for worker in node.workers] == [False, False]
            assert [worker.routes() for worker in node.workers] == [{"1"}, {"1"}]

    run(script)


def test_a_follower_that_does_not_read_costs_the_leader_nothing(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        truth.put(*(f"routes/{number}" for number in range(500)))
        with Node(tmp_path, truth, 2) as node:
            leader = node.workers[0].relay
            leader.history = History(max_bytes=1 << 20)
            leader.replaced(truth.revision)
            await node.agree()
            with connect(leader._path) as sock:
                sock.send(frame(Hello(0, pack_digest(0))))
                for number in range(300):
                    truth.put(f"routes/{number % 7}", value=ROUTE[:-1] + b', "desc": "' + b"x" * 8000 + b'"}')
                    await asyncio.sleep(0)
                await node.agree()
                received, messages = await asyncio.to_thread(read_until_compare, sock)
            assert isinstance(messages[0], Welcome)
            assert received < 1_500_000, "buffers, not everything that was written"

    run(script)


def read_until_compare(sock: socket.socket) -> tuple[int, list[FromLeader]]:
    sock.settimeout(10.0)
    received, splitter, messages = 0, FrameSplitter(), list[FromLeader]()
    while not any(isinstance(message, Compare) for message in messages):
        data = sock.recv(1 << 20)
        received += len(data)
        messages += [read_from_leader(payload) for payload in splitter.feed(data)]
    return received, messages


def test_nonsense_ends_a_connection_and_nothing_else(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        truth.put("routes/1")
        with Node(tmp_path, truth, 2) as node:
            await node.agree()
            path = node.workers[0].relay._path
            for nonsense in (b"\xff" * 100, frame(Batch([Record(b"x", 1)], 1, b"")), frame(Hello(1, b"")) * 3):
                reader, writer = await asyncio.open_unix_connection(sock=connect(path))
                writer.write(nonsense)
                await reader.read()
                writer.close()
            truth.put("routes/2")
            await node.agree()

    run(script)


def test_a_directory_that_cannot_be_used_leaves_every_worker_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "SILENCE", 0.2)

    async def script() -> None:
        truth = Truth()
        truth.put("routes/1")
        with Node(tmp_path / "missing", truth, 2) as node:
            await node.agree()
            assert [worker.relay.role for worker in node.workers] == [Role.ALONE] * 2
            relay = node.workers[0].relay
            await until(lambda: "cannot try for the lead" in relay.state().last_error, "it says why")

    run(script)


def test_settings_of_no_use_are_said_at_the_start(tmp_path: Path) -> None:
    def refuse(_: Callable[[int], None]) -> Watch:
        raise SettingsError("etcd.tls: cannot read the certificate files")

    async def script() -> None:
        with pytest.raises(SettingsError):
            RelayProvider(tmp_path, "test", refuse, ConfigStore(), asyncio.get_running_loop(), print)

    run(script)


def test_a_leader_whose_settings_are_of_no_use_for_a_while_watches_later(tmp_path: Path) -> None:
    """As while certificate files are being replaced: others would fare no better, and nobody must give up."""
    is_broken = False

    async def script() -> None:
        nonlocal is_broken
        truth = Truth()
        truth.put("routes/1")
        with Node(tmp_path, truth, 2) as node:
            await node.agree()
            for worker in node.workers:
                make_watch = worker.relay._make_watch

                def make(on_progress: Callable[[int], None], make_watch: Any = make_watch) -> Any:
                    if is_broken:
                        raise SettingsError("etcd.tls: cannot read the certificate files")
                    return make_watch(on_progress)

                worker.relay._make_watch = make
            is_broken = True
            await node.remove_leader(lambda worker: worker.relay.stop())
            [leader] = node.leaders()
            await until(lambda: "cannot watch etcd" in leader.relay.state().last_error, "it says why")
            truth.put("routes/2")
            is_broken = False
            await node.agree()
            assert leader.relay.role is Role.LEADING
            assert leader.relay.state().last_error == ""

    run(script)


def test_the_table_knows_every_role() -> None:
    assert set(TRANSITIONS) == set(Role)
    assert {role for moves in TRANSITIONS.values() for role in moves.values()} == set(Role)


def from_disk(worker: Worker, revision: int, *entries: Entry) -> None:
    """Fill a worker's store as from a snapshot on disk."""
    arriving = worker.store.receive(guarded=False, becomes_stale=True)
    for _ in (*arriving.add(entries), *arriving.complete(revision)):
        pass


@pytest.mark.parametrize("revision", [2, 3, 50], ids=["behind", "equal", "ahead"])
def test_a_worker_with_an_old_snapshot_is_brought_up_to_date_by_its_leader(tmp_path: Path, revision: int) -> None:
    """Ahead it is when the store went back; equal in its revision only, when it was filled again."""

    async def script() -> None:
        truth = Truth()
        truth.put("routes/1")
        truth.put("routes/2")
        with Node(tmp_path, truth, 2) as node:
            await node.agree()
            late = Worker(tmp_path, truth)
            from_disk(late, revision, Entry("routes/old", ROUTE, 2, 2, 1))
            late.store.held = Held(9, 10, 1.0)
            node.workers.append(late)
            late.relay.start()
            await node.agree()
            assert late.routes() == {"1", "2"}
            assert not late.store.stale
            assert late.store.held is None
            truth.put("routes/3")
            await node.agree()
            assert len(truth.watches) == 1

    run(script)


def test_while_the_store_is_away_fresh_workers_tell_stale_ones_what_is_true(tmp_path: Path) -> None:
    """As in a reload: new workers come from the disk, and the leader is still an old one."""

    async def script() -> None:
        truth = Truth()
        truth.put("routes/1")
        with Node(tmp_path, truth, 2) as node:
            await node.agree()
            truth.is_reachable = False
            new = [Worker(tmp_path, truth) for _ in range(2)]
            for worker in new:
                from_disk(worker, 1)
                worker.relay.start()
            node.workers += new
            await node.agree()
            assert [worker.store.stale for worker in node.workers] == [False] * 4
            for old in node.workers[:2]:
                old.relay.step_down()
            await until(lambda: any(worker.relay.role is Role.LEADING for worker in new), "a new one leads")
            truth.is_reachable = True
            truth.put("routes/2")
            await node.agree()

    run(script)


def test_a_stale_leader_is_not_believed_by_those_who_know_better(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        truth.put("routes/1")
        with Node(tmp_path, truth, 2) as node:
            await node.agree()
            follower = node.workers[1]
            truth.is_reachable = False
            follower.relay._is_candidate = False  # so that it is the stale one who leads
            await node_without_leader(node)
            stale = Worker(tmp_path, truth)
            from_disk(stale, 90, Entry("routes/old", ROUTE, 90, 90, 1))
            stale.relay.start()
            node.workers.append(stale)
            await until(lambda: stale.relay.role is Role.LEADING, "it leads")
            await until(lambda: follower.relay._link is not None, "it is followed")
            await asyncio.sleep(2 * provider_module.POLL)  # in which it could have told
            assert follower.routes() == {"1"}
            assert not follower.store.stale
            truth.put("routes/2")
            truth.is_reachable = True
            truth.tell()
            await node.agree()
            assert follower.routes() == stale.routes() == {"1", "2"}

    run(script)


async def node_without_leader(node: Node) -> None:
    [leader] = node.leaders()
    node.workers.remove(leader)
    leader.relay.stop()


def test_who_has_stopped_notes_nothing_more(tmp_path: Path) -> None:
    async def script() -> None:
        truth = Truth()
        truth.put("routes/1")
        worker = Worker(tmp_path, truth)
        worker.relay.start()
        await until(lambda: worker.holds(truth), "it has what there is")
        worker.relay.stop()
        worker.store.apply([Entry("routes/2", ROUTE, 9, 9, 1)], 9)
        assert worker.relay.history.revision == truth.revision

    run(script)
