"""A store as etcd is one: it remembers every revision until it is compacted. Pure, for the watch machine's tests."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from config_sync import schema
from config_sync.cache import ConfigStore, Deletion, key_of, place_of
from config_sync.etcd.messages import (
    OUT_OF_RANGE,
    Header,
    KeyValue,
    RangeAnswer,
    WatchEvent,
    WatchLine,
    WatchResult,
)
from config_sync.etcd.watch import (
    Apply,
    Command,
    Complete,
    Disconnect,
    Limits,
    OpenWatch,
    ReadPage,
    ReadRevision,
    Request,
    Stage,
    State,
    Watch,
)

PREFIX = b"/apisix/"
CLUSTER = 1
DECODERS = schema.decoders()
WATCH_ID = 1
KINDS: dict[str, dict[str, Any]] = {
    "routes": {"uri": "/a", "upstream": {"nodes": {"127.0.0.1:80": 1}}},
    "upstreams": {"nodes": {"127.0.0.1:80": 1}},
    "plugin_configs": {"plugins": {}},
}


class History:
    """Keys of several directories, and what happened to them."""

    def __init__(self) -> None:
        self.log: list[WatchEvent] = []
        self.live: dict[bytes, KeyValue] = {}
        self.revision = 1
        self.compacted = 0

    def write(self, chance: random.Random, revisions: int = 1) -> None:
        """Write some revisions, each of one to four keys."""
        names = [f"{kind}/{id_}" for kind in KINDS for id_ in "abc"]
        for _ in range(revisions):
            self.revision += 1
            for name in chance.sample(names, chance.randint(1, 4)):
                self._change(name, delete=chance.random() < 0.3)

    def _change(self, name: str, delete: bool) -> None:
        key = PREFIX + name.encode()
        before = self.live.get(key)
        if before is not None and delete:
            del self.live[key]
            self.log.append(WatchEvent(KeyValue(key, mod_revision=self.revision), "DELETE"))
            return
        create, version = (before.create_revision, before.version + 1) if before else (self.revision, 1)
        value = json.dumps({"desc": str(self.revision), **KINDS[name.partition("/")[0]]}).encode()
        self.live[key] = KeyValue(key, value, self.revision, create, version)
        self.log.append(WatchEvent(self.live[key]))

    def compact(self, revision: int) -> None:
        """Forget what was before a revision."""
        self.compacted = revision

    def at(self, revision: int) -> dict[bytes, KeyValue]:
        """Return what was live at a revision."""
        live: dict[bytes, KeyValue] = {}
        for event in self.log:
            if event.kv.mod_revision > revision:
                break
            if event.type == "DELETE":
                live.pop(event.kv.key)
            else:
                live[event.kv.key] = event.kv
        return live

    def page(self, key: bytes, revision: int, limit: int) -> RangeAnswer:
        """Answer a range from a key on, at a revision (0: the current one)."""
        live = self.at(revision or self.revision)
        found = [live[name] for name in sorted(live) if name >= key]
        return RangeAnswer(self.header(), found[:limit], len(found) > limit, len(found))

    def header(self) -> Header:
        """Return the header of an answer made now."""
        return Header(CLUSTER, 1, self.revision, 2)

    def created(self) -> WatchLine:
        """Return the first message of a watch."""
        return WatchLine(WatchResult(self.header(), WATCH_ID, created=True))

    def canceled(self) -> WatchLine:
        """Return the last message of a watch that compaction has overtaken."""
        header = Header(CLUSTER, 1, 0, 2)
        return WatchLine(WatchResult(header, WATCH_ID, canceled=True, compact_revision=max(1, self.compacted)))

    def messages(self, start: int, chance: random.Random, hidden: int = 0) -> Iterator[WatchLine]:
        """Send the events from a revision on as a member may: in any batches, with fragments inside a revision.

        Deletions at the revision ``hidden`` are left out, as etcd does when a watch begins at the compacted one.
        """
        waiting = [event for event in self.log if event.kv.mod_revision >= start]
        waiting = [event for event in waiting if event.type == "PUT" or event.kv.mod_revision != hidden]
        while waiting:
            count = chance.randint(1, min(len(waiting), 12))
            is_last = count == len(waiting)
            ends_inside = not is_last and waiting[count].kv.mod_revision == waiting[count - 1].kv.mod_revision
            fragment = ends_inside or (not is_last and chance.random() < 0.1)
            yield WatchLine(WatchResult(self.header(), WATCH_ID, events=waiting[:count], fragment=fragment))
            waiting = waiting[count:]


class Replica:
    """A machine and a store that follow a history; what happens on the way is left to chance."""

    def __init__(self, history: History, chance: random.Random) -> None:
        self.history = history
        self.chance = chance
        self.now = 0.0
        self.store = ConfigStore(DECODERS)
        self.request: Request | None = None
        self.deleted: set[str] = set()  # keys whose deletion has been applied
        self.hidden = 0  # the revision whose deletions the open watch does not show
        self.watch = self._machine(0)

    def _machine(self, resume_at: int) -> Watch:
        return Watch(PREFIX, Limits(30, 50), False, self._known, self.chance.random, resume_at=resume_at)

    def _known(self, key: str) -> tuple[int, int] | None:
        place = place_of(key)
        item = self.store.caches[place[0]].items.get(place[1]) if place is not None else None
        return (item.create_revision, item.version) if item is not None else None

    def start(self) -> None:
        """Begin."""
        self.carry_out(self.watch.start(self.now))

    def restart(self, keep: bool) -> None:
        """Begin anew in another process, with what was applied (``keep``) or with nothing."""
        if not keep or not self.store.revision:
            self.store = ConfigStore(DECODERS)
        self.watch = self._machine(self.store.revision)
        self.start()

    def carry_out(self, commands: Sequence[Command]) -> None:
        """Do what the machine wants; requests wait for ``step``."""
        for command in commands:
            if isinstance(command, Stage):
                if command.is_first:
                    self._incoming = self.store.receive()
                _exhaust(self._incoming.add(command.entries))
            elif isinstance(command, Complete):
                _exhaust(self._incoming.complete(command.revision))
                assert self._incoming.is_done
                self.carry_out(self.watch.snapshot_taken(self.now))
            elif isinstance(command, Apply):
                self.deleted.update(event.key for event in command.events if isinstance(event, Deletion))
                if self.chance.random() < 0.5:
                    self.store.apply(command.events, command.revision)
                else:
                    _exhaust(self.store.applying(command.events, command.revision))
            elif isinstance(command, Disconnect):
                self.request = None
            elif isinstance(command, Request):
                self.request = command

    def line(self, line: WatchLine) -> None:
        """Receive a line of the watch."""
        self.carry_out(self.watch.line_received(line, self.now))

    def lose_connection(self) -> None:
        """Have the connection cut."""
        self.request = None
        self.carry_out(self.watch.connection_lost("cut", self.now))

    def step(self, limit: int = 500) -> None:
        """Answer what has been asked, or let time pass; pages have ``limit`` keys."""
        request, self.request = self.request, None
        history = self.history
        if isinstance(request, ReadPage):
            if request.revision and request.revision < history.compacted:
                self.carry_out(self.watch.call_failed(OUT_OF_RANGE, "required revision has been compacted", self.now))
            else:
                self.carry_out(self.watch.page_received(history.page(request.key, request.revision, limit), self.now))
        elif isinstance(request, ReadRevision):
            self.carry_out(self.watch.revision_received(RangeAnswer(history.header()), self.now))
        elif isinstance(request, OpenWatch):
            self.hidden = history.compacted if request.start_revision == history.compacted else 0
            self.line(history.created())
            if request.start_revision < history.compacted:
                self.line(history.canceled())
        elif self.watch.wake_at is not None:
            self.now = max(self.now, self.watch.wake_at)
            self.carry_out(self.watch.tick(self.now))

    def settle(self) -> None:
        """Answer honestly until the watch is open.

        Raises:
            AssertionError: it does not open.
        """
        for _ in range(100):
            if self.watch.state is State.WATCHING:
                return
            self.step()
        raise AssertionError(f"hangs {self.watch.state.value}")

    def list_again(self) -> None:
        """Let compaction have overtaken the watch, so that everything is compared with a list."""
        self.settle()
        self.line(self.history.canceled())
        self.settle()

    def raw(self) -> dict[bytes, bytes]:
        """Return what the store holds, by key."""
        return raw_of(self.store)


def raw_of(store: ConfigStore) -> dict[bytes, bytes]:
    """Return what a store holds, by key."""
    return {
        PREFIX + key_of(directory, id_).encode(): item.raw
        for directory, cache in store.caches.items()
        for id_, item in cache.items.items()
    }


def _exhaust(steps: Iterator[None]) -> None:
    for _ in steps:
        pass
