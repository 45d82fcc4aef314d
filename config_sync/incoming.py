"""A complete snapshot on its way in: page by page it is decoded and compared, and nothing of it is visible; then
all of it becomes visible at one instant.

Every part is a sequence of short steps (``config_sync.steps``). Records that have not changed keep their items, and
listeners hear nothing of them. What has changed is handed to the listeners' stagings, which prepare aside; when the
guard does not object, caches and listeners are switched in the last step, by assignments and bulk updates.
While a snapshot is on its way, nothing else may change the store.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from config_sync.digest import MODULUS
from config_sync.records import Change, Decoded, Entry, Event, Item, Rejected, Staging, item_hash, place_of

if TYPE_CHECKING:
    from config_sync.cache import ConfigStore

log = logging.getLogger("propylon.sync")

IN_PLACE = 256  # items put in place one by one in the last step; for more a second table is made aside
COMPARED = 64  # records compared between two steps
MERGED = 256  # items taken over into a second table, or freed with the first, between two steps
DECODED = 8  # records decoded between two steps


class Incoming:
    """One snapshot; or, with ``is_complete`` false, one revision with very many events."""

    def __init__(
        self, store: "ConfigStore", is_complete: bool, guarded: bool = False, becomes_stale: bool = False
    ) -> None:
        self.is_done = False
        self._store = store
        self._is_complete = is_complete
        self._guarded = guarded
        self._becomes_stale = becomes_stale
        self._stagings: list[Staging] = store.stagings()
        self._seen: dict[str, set[str]] = {directory: set() for directory in store.caches}
        self._items: dict[str, dict[str, Item]] = {directory: {} for directory in store.caches}
        self._gone: dict[str, list[str]] = {directory: [] for directory in store.caches}
        self._new = dict.fromkeys(store.caches, 0)  # records of keys that were not there
        self._digests = dict(store.digests)
        self._merged: dict[str, dict[str, Item]] = {}  # tables that take the live ones' place
        self._replaced: list[dict[str, Item]] = []  # what they have taken the place of
        self._faults: dict[str, Rejected] = {}
        self._healed: list[str] = []
        self._changed = 0  # the highest revision among what differs
        self._is_dropped = False
        self.differences = 0  # records put, changed or gone

    def add(self, entries: Sequence[Entry], good: Mapping[str, bytes] | None = None) -> Iterator[None]:
        """Take a page, in steps; ``good`` holds last good values, by key, of entries whose own is not valid.

        They take the place of ours: where they come from more has been seen.
        """
        for at, entry in enumerate(entries):
            if self._is_dropped:
                return
            if (self._add(entry, good) and self.differences % DECODED == 0) or at % COMPARED == COMPARED - 1:
                yield

    def _add(self, entry: Entry, good: Mapping[str, bytes] | None) -> bool:
        """Take a record; tells whether it differs from what is there."""
        place = place_of(entry.key)
        if place is None:
            return False
        directory, id_ = place
        before = self._store.caches[directory].items.get(id_)
        if before is not None:
            id_ = before.id  # the same text, once in memory
        else:
            self._new[directory] += 1
        self._seen[directory].add(id_)
        kept = good.get(entry.key) if good is not None else None
        if before is not None and before.is_of(entry) and kept in (None, before.good):
            return False
        self.differences += 1
        if entry.mod_revision > self._changed:
            self._changed = entry.mod_revision
        last_good = before.good if before is not None else None
        decoded = self._store.decode(directory, id_, entry, last_good)
        if decoded.fault is not None:
            fault = decoded.fault
            self._faults[entry.key] = Rejected(entry.key, fault.path, fault.reason, entry.mod_revision)
            decoded = self._with_good(directory, id_, entry, kept, decoded)
        elif self._store.rejected:
            self._healed.append(entry.key)
        item, value = decoded.item, decoded.value
        self._items[directory][id_] = item
        self._count(directory, item, 1)
        if before is not None:
            self._count(directory, before, -1)
        if value is not None and last_good != item.good:
            self._stage(Change(directory, id_, value))
        return True

    def _with_good(self, directory: str, id_: str, entry: Entry, good: bytes | None, refused: Decoded) -> Decoded:
        """Take the last good value of a file or another worker, who have seen more of the past than we have."""
        if good is None:
            return refused
        kept = self._store.decode(directory, id_, entry._replace(value=good), None)
        if kept.fault is not None:
            return refused
        item = refused.item
        versions = item.mod_revision, item.create_revision, item.version
        return Decoded(Item(id_, entry.value, good, *versions), kept.value, refused.fault)

    def remove(self, keys: Sequence[str]) -> None:
        """Take deletions, of a revision rather than a snapshot."""
        for key in keys:
            place = place_of(key)
            if place is not None and place[1] in self._store.caches[place[0]].items:
                self._remove(*place)

    def _remove(self, directory: str, id_: str) -> None:
        item = self._store.caches[directory].items[id_]
        self.differences += 1
        self._gone[directory].append(id_)
        self._count(directory, item, -1)
        if item.good is not None:
            self._stage(Change(directory, id_, None))

    def _count(self, directory: str, item: Item, sign: int) -> None:
        self._digests[directory] = (self._digests[directory] + sign * item_hash(directory, item)) % MODULUS

    def _stage(self, change: Change) -> None:
        for staging in self._stagings:
            self._guarded_call(staging.add, (change,))

    def _guarded_call(self, call: Callable[[Sequence[Change]], None], changes: Sequence[Change]) -> None:
        try:
            call(changes)
        except Exception:  # a listener must cost neither the others nor the provider their update
            log.exception("a listener failed on %s", changes[0])

    def complete(self, revision: int, events: Sequence[Event] = ()) -> Iterator[None]:
        """Find what is gone, ask the guard, and make everything visible in the last step.

        ``is_done`` tells afterwards whether that has happened; when the guard has objected, ``store.held`` is set.
        """
        if self._is_complete:
            yield from self._find_gone()
        store = self._store
        if self._guarded and store.guard is not None:
            store.held = store.guard.held(len(self._gone["routes"]), len(store.caches["routes"].items))
            if store.held is not None:
                self.drop()
        if self._is_dropped:
            return
        for staging in self._stagings:
            yield from self._safely(staging.finish())
        yield from self._merge()
        if self._is_dropped:
            return
        self._commit(revision, events)
        yield from self._clean()

    def _clean(self) -> Iterator[None]:
        left = deque(self._stagings)
        try:
            while left:
                yield from self._safely(left[0].clean())
                left.popleft()
            yield from self._free_replaced()
        finally:
            # Nobody goes on with the steps; what is live by now must be left as if they had been done.
            for staging in left:
                for _ in self._safely(staging.clean()):
                    pass

    def _free_replaced(self) -> Iterator[None]:
        """Free the items that are no more: for very many at once that takes as long as some hundred requests."""
        for items in self._replaced:
            while items:
                items.popitem()
                if len(items) % MERGED == 0:
                    yield

    def _merge(self) -> Iterator[None]:
        """Make a second table aside where so many items differ that the live one could not be changed at once."""
        for directory, cache in self._store.caches.items():
            new, gone = self._items[directory], frozenset(self._gone[directory])
            if len(new) + len(gone) <= IN_PLACE:
                continue
            if not cache.items:
                self._merged[directory] = new
                continue
            merged = self._merged[directory] = {}
            for at, (id_, item) in enumerate(cache.items.items()):
                if id_ not in gone:
                    merged[id_] = new.get(id_, item)
                if at % MERGED == MERGED - 1:
                    yield
            for at, (id_, item) in enumerate(new.items()):
                merged.setdefault(id_, item)
                if at % MERGED == MERGED - 1:
                    yield

    def _find_gone(self) -> Iterator[None]:
        for directory, cache in self._store.caches.items():
            seen = self._seen[directory]
            if len(seen) - self._new[directory] == len(cache.items):
                continue
            for at, id_ in enumerate(list(cache.items)):
                if id_ not in seen:
                    self._remove(directory, id_)
                if at % COMPARED == COMPARED - 1:
                    yield

    def _safely(self, steps: Iterator[None]) -> Iterator[None]:
        try:
            yield from steps
        except Exception:
            log.exception("a listener failed to prepare")

    def _commit(self, revision: int, events: Sequence[Event]) -> None:
        store = self._store
        for directory, cache in store.caches.items():
            if directory in self._merged:
                self._replaced.append(cache.items)
                cache.items = self._merged[directory]
            else:
                for id_ in self._gone[directory]:
                    del cache.items[id_]
                cache.items.update(self._items[directory])
        if store.rejected:
            self._forget_rejected()
        store.digests.update(self._digests)
        store.reject_all(self._faults)
        for staging in self._stagings:
            try:
                staging.commit()
            except Exception:
                log.exception("a listener failed to switch at revision %d", revision)
        self.is_done = True
        if not self._is_complete:
            store.tell_staged(events, revision)
            return
        # What is gone has no revision; it went at the latest at that of the snapshot.
        if self.differences:
            changed = revision if any(self._gone.values()) else max(store.changed, self._changed)
            store.changed = min(changed, revision)
        store.held = None
        store.stale = self._becomes_stale
        store.revision = revision
        store.tell_replaced(revision)

    def _forget_rejected(self) -> None:
        rejected = self._store.rejected
        for key in self._healed:
            rejected.pop(key, None)
        if any(self._gone.values()):
            gone = {directory: frozenset(ids) for directory, ids in self._gone.items()}
            places = [(key, place_of(key)) for key in rejected]
            for key, place in places:
                if place is not None and place[1] in gone[place[0]]:
                    del rejected[key]

    def drop(self) -> None:
        """Forget it, unless it is in place already; steps that are still to be done do nothing."""
        if self.is_done or self._is_dropped:
            return
        self._is_dropped = True
        for staging in self._stagings:
            staging.drop()
