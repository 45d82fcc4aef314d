"""A follower and a leader that is a script: what comes over the socket, and what becomes of it in the store."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from config_sync.cache import ConfigStore, Deletion, Entry, Event
from config_sync.digest import MODULUS, record_hash
from config_sync.relay.election import listen
from config_sync.relay.follower import FollowerLink
from config_sync.relay.messages import (
    Batch,
    Compare,
    Complete,
    FrameSplitter,
    FromLeader,
    Heartbeat,
    Hello,
    Page,
    Progress,
    Welcome,
    frame,
    pack_digest,
    read_from_follower,
    record_of,
)
from tests.fakes.etcd import until

ROUTE = b'{"uri": "/a", "upstream": {"nodes": {"127.0.0.1:80": 1}}}'


def put(key: str, revision: int, value: bytes = ROUTE) -> Entry:
    return Entry(key, value, revision, revision, 1)


def digest(*entries: Entry) -> bytes:
    return pack_digest(sum(record_hash(entry.key, entry.mod_revision, entry.value) for entry in entries) % MODULUS)


def batch(revision: int, held: bytes, *events: Event, more: bool = False) -> Batch:
    return Batch([record_of(event) for event in events], revision, held, more)


class Following:
    """A link at work, the leader's end of it, and what the owner was told."""

    def __init__(self, path: Path) -> None:
        self.store = ConfigStore()
        self.link = FollowerLink(path, self.store, asyncio.get_running_loop(), self)
        self.told: list[str] = []
        self.seen: list[int] = []  # how many changes each time listeners were told
        self.store.subscribe(lambda changes: self.seen.append(len(changes)))
        self._listening = listen(path)
        self._splitter = FrameSplitter()
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def start(self) -> "Following":
        self.link.open()
        sock, _ = self._listening.accept()
        self._reader, self._writer = await asyncio.open_unix_connection(sock=sock)
        self._listening.close()
        self.say(Welcome(4711))
        await self.hello()
        return self

    def say(self, *messages: FromLeader) -> None:
        for message in messages:
            self._writer.write(frame(message))

    async def hello(self) -> Hello:
        """Wait for the follower's next Hello."""
        while True:
            payloads = self._splitter.feed(await self._reader.read(4096))
            if payloads:
                [payload] = payloads
                return read_from_follower(payload)

    async def stop(self) -> None:
        self.link.close()
        self._writer.close()
        await self._writer.wait_closed()

    def routes(self) -> list[str]:
        return sorted(self.store.caches["routes"].items)

    # the owner

    def welcomed(self, pid: int) -> None:
        self.told.append(f"welcomed {pid}")

    def heard(self) -> None:
        pass

    def followed(self, revision: int) -> None:
        self.told.append(f"followed {revision}")

    def differed(self, reason: str) -> None:
        self.told.append(reason)

    def lost(self, reason: str) -> None:
        self.told.append(reason)


def run(path: Path, script: Callable[[Following], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            following = await Following(path / "relay.sock").start()
            await script(following)
            await following.stop()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def test_a_batch_in_parts_becomes_visible_at_one_instant(tmp_path: Path) -> None:
    async def script(following: Following) -> None:
        first, second = put("routes/1", 5), put("routes/2", 5)
        held = digest(first, second)
        following.say(batch(5, held, first, more=True), Heartbeat())
        following.say(batch(5, held, second))
        await until(lambda: "followed 5" in following.told, "the batch is applied")
        assert following.seen == [2]
        following.say(Progress(9, held))
        await until(lambda: following.told[-1] == "followed 9", "progress is told")
        assert following.told == ["welcomed 4711", "followed 5", "followed 9"]

    run(tmp_path, script)


def test_a_big_batch_and_what_comes_behind_it_stay_in_order(tmp_path: Path) -> None:
    async def script(following: Following) -> None:
        entries = [put(f"routes/{number}", 5) for number in range(200)]
        last = put("routes/0", 6)
        following.say(batch(5, digest(*entries), *entries), batch(6, digest(last, *entries[1:]), last))
        await until(lambda: following.told[-1] == "followed 6", "both are applied")
        assert following.told[1:] == ["followed 5", "followed 6"]

    run(tmp_path, script)


def test_what_it_has_already_is_dropped(tmp_path: Path) -> None:
    async def script(following: Following) -> None:
        first, second = put("routes/1", 5), put("routes/2", 6)
        following.say(batch(5, digest(first), first), batch(6, digest(first, second), first, second))
        await until(lambda: following.told[-1] == "followed 6", "the second is applied")
        assert following.seen == [1, 1]

    run(tmp_path, script)


def test_a_snapshot_becomes_visible_when_it_is_complete(tmp_path: Path) -> None:
    async def script(following: Following) -> None:
        old, new, other = put("routes/old", 3), put("routes/1", 5), put("routes/2", 6)
        following.say(batch(3, digest(old), old))
        following.say(Page([record_of(new)], first=True), Page([record_of(other)], first=False))
        following.say(Heartbeat())
        await until(lambda: following.told[-1] == "followed 3" and not following.link.is_working(), "pages are in")
        assert following.routes() == ["old"]
        following.say(Complete(8, digest(new, other)))
        await until(lambda: following.told[-1] == "followed 8", "the snapshot is complete")
        assert following.routes() == ["1", "2"]

    run(tmp_path, script)


def test_half_a_snapshot_leaves_nothing(tmp_path: Path) -> None:
    async def script(following: Following) -> None:
        following.say(Page([record_of(put("routes/1", 5))], first=True))
        await following.stop()
        assert following.routes() == []
        assert following.store.revision == 0

    run(tmp_path, script)


def test_asked_to_compare_it_forgets_half_a_batch(tmp_path: Path) -> None:
    async def script(following: Following) -> None:
        lost, kept = put("routes/1", 5), put("routes/2", 6)
        following.say(batch(5, digest(lost), lost, more=True), Compare())
        assert await following.hello() == Hello(0, digest())
        following.say(batch(6, digest(kept), kept))
        await until(lambda: "followed 6" in following.told, "the next batch is applied")
        assert following.routes() == ["2"]

    run(tmp_path, script)


def test_what_differs_from_the_leader_is_told_and_ends_the_link(tmp_path: Path) -> None:
    async def script(following: Following) -> None:
        first = put("routes/1", 5)
        following.say(batch(5, digest(first, first), first), batch(6, digest(), Deletion("routes/1", 6)))
        await until(lambda: len(following.told) == 2, "it is told")
        assert following.told[1] == "at revision 5 we do not hold what the leader holds"
        assert following.store.revision == 5

    run(tmp_path, script)


def test_what_makes_no_sense_ends_the_link(tmp_path: Path) -> None:
    senseless: list[FromLeader] = [Page([], first=False), Complete(5, digest())]
    for at, message in enumerate(senseless):

        async def script(following: Following, message: FromLeader = message) -> None:
            following.say(message)
            await until(lambda: len(following.told) == 2, "the link has ended")
            assert "that has not begun" in following.told[1]

        directory = tmp_path / str(at)
        directory.mkdir()
        run(directory, script)


def test_a_long_queue_is_not_read_ahead_and_all_of_it_is_applied(tmp_path: Path) -> None:
    async def script(following: Following) -> None:
        for revision in range(1, 1001):
            entry = put("routes/1", revision, ROUTE[:-1] + b', "desc": "' + b"x" * 4000 + b'"}')
            following.say(batch(revision, digest(entry), entry))
        await until(lambda: following.told[-1] == "followed 1000", "all are applied")
        assert len(following.told) == 1001

    run(tmp_path, script)
