"""A store as etcd is one: it remembers every revision until it is compacted. Pure, for the watch machine's tests."""

import json
import random
from collections.abc import Iterator
from typing import Any

from config_sync.etcd.messages import Header, KeyValue, RangeAnswer, WatchEvent, WatchLine, WatchResult

PREFIX = b"/apisix/"
CLUSTER = 1
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
        return WatchLine(WatchResult(header, WATCH_ID, canceled=True, compact_revision=self.compacted))

    def messages(self, start: int, chance: random.Random) -> Iterator[WatchLine]:
        """Send the events from a revision on as a member may: in any batches, fragments inside a revision."""
        waiting = [event for event in self.log if event.kv.mod_revision >= start]
        while waiting:
            count = chance.randint(1, len(waiting))
            ends_inside = count < len(waiting) and waiting[count].kv.mod_revision == waiting[count - 1].kv.mod_revision
            yield WatchLine(
                WatchResult(
                    self.header(),
                    WATCH_ID,
                    events=waiting[:count],
                    fragment=ends_inside or (chance.random() < 0.1 and count < len(waiting)),
                )
            )
            waiting = waiting[count:]
