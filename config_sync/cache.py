"""The configuration as a worker holds it: one cache per directory, changed in place, key by key.

Events of whole revisions come through ``apply``: all of them are in the caches before any listener is told, and
listeners run in the same step of the event loop, so a request sees either none or all of a revision. A complete
snapshot comes through ``receive`` (``config_sync.incoming``), in pages, and becomes visible at one instant too.

A value that is not valid never takes the place of one that was: ``Item.good`` keeps the last good one, and
``rejected`` lists what is wrong until a good one is written. Decoded values are not kept: listeners make of them
what they need, and ``value`` decodes again for the few who ask later.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any

from config_sync import schema
from config_sync.digest import MODULUS
from config_sync.errors import InvalidResource
from config_sync.guard import Guard
from config_sync.incoming import Incoming
from config_sync.records import (
    Change,
    Decoded,
    Decoder,
    Deletion,
    Entry,
    Event,
    Item,
    Listener,
    Observer,
    PrefixCache,
    Rejected,
    Staging,
    Weigher,
    item_hash,
    key_of,
    place_of,
)
from config_sync.status import Held

__all__ = [
    "Change",
    "ConfigStore",
    "Decoder",
    "Deletion",
    "Entry",
    "Event",
    "Incoming",
    "Item",
    "Listener",
    "Observer",
    "PrefixCache",
    "Rejected",
    "Staging",
    "key_of",
    "place_of",
]

log = logging.getLogger("propylon.sync")

LOGGED = 50  # values of one snapshot that are not valid
AT_ONCE = 64  # events applied in one step, with what depends on them; a revision with more is prepared aside first


class _Collected:
    """The staging of a listener that has none: it is told everything at the end."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._changes: list[Change] = []

    def add(self, changes: Sequence[Change]) -> None:
        self._changes += changes

    def finish(self) -> Iterator[None]:
        return iter(())

    def commit(self) -> None:
        if self._changes:
            self._listener(self._changes)

    def clean(self) -> Iterator[None]:
        return iter(())

    def drop(self) -> None:
        self._changes = []


class ConfigStore:
    """All directories, at one revision."""

    def __init__(self, decoders: Mapping[str, Decoder] | None = None, guard: Guard | None = None) -> None:
        """Begin empty, with the decoders of the directories and what watches over snapshots."""
        self.caches = {directory: PrefixCache(directory) for directory in schema.DIRECTORIES}
        self.digests = dict.fromkeys(schema.DIRECTORIES, 0)
        self.revision = 0
        self.changed = 0
        self.last_event = 0.0  # seconds since the epoch
        self.rejected: dict[str, Rejected] = {}
        self.rejections = 0  # values refused since the start
        self.stale = False
        self.held: Held | None = None
        self.guard = guard
        self._decoders = decoders if decoders is not None else schema.decoders()
        self._listeners: list[tuple[Listener, Callable[[], Staging] | None]] = []
        self._weighers: list[Weigher] = []
        self._observers: list[Observer] = []

    def subscribe(
        self, listener: Listener, stage: Callable[[], Staging] | None = None, weigh: Weigher | None = None
    ) -> None:
        """Tell a listener of every change from now on; with ``stage`` it can prepare big ones aside.

        ``weigh`` tells of an item, by directory and id, on how many others a change of it may have an effect.
        """
        self._listeners.append((listener, stage))
        if weigh is not None:
            self._weighers.append(weigh)

    def observe(self, observer: Observer) -> None:
        """Tell an observer of every record from now on."""
        self._observers.append(observer)

    def unobserve(self, observer: Observer) -> None:
        """Tell an observer nothing more; nothing happens when it is not told anything."""
        if observer in self._observers:
            self._observers.remove(observer)

    def value(self, directory: str, id_: str) -> Any | None:
        """Decode the last good value of an item again; None when there is none."""
        item = self.caches[directory].items.get(id_)
        if item is None or item.good is None:
            return None
        try:
            return self._decoders[directory](id_, item.good)[0]
        except InvalidResource:
            # It was good when it came: what it depends on besides itself, a variable or a key, has gone.
            return None

    # events

    def fits_one_step(self, events: Sequence[Event]) -> bool:
        """Tell whether ``apply`` takes events quickly: they are few, and so are the items that depend on them."""
        return self._weight(events) <= AT_ONCE

    def _weight(self, events: Sequence[Event]) -> int:
        """Count events and what depends on them; of too many only themselves."""
        if not self._weighers or len(events) > AT_ONCE:
            return len(events)
        places = [place for event in events if (place := place_of(event.key)) is not None]
        return len(events) + sum(weigh(*place) for weigh in self._weighers for place in places)

    def apply(self, events: Sequence[Event], revision: int) -> None:
        """Take over the events of whole revisions, in order, up to ``revision``, at one instant."""
        changes: list[Change] = []
        for event in events:
            change = self._put(event) if isinstance(event, Entry) else self._delete(event.key)
            if change is not None:
                changes.append(change)
        self._applied(events, revision)
        if changes:
            for listener, _ in self._listeners:
                try:
                    listener(changes)
                except Exception:  # it must cost neither the other listeners nor the provider their update
                    log.exception("a listener failed on %d changes at revision %d", len(changes), revision)
        self._tell_observers(events, revision)

    def applying(self, events: Sequence[Event], revision: int) -> Iterator[None]:
        """Do what ``apply`` does, in steps: each revision at one instant, but not all of them at the same."""
        portion: list[Event] = []
        weight = 0
        for mod_revision, group in groupby(events, lambda event: event.mod_revision):
            of_revision = list(group)
            own = self._weight(of_revision)
            if own > AT_ONCE:
                if portion:
                    self.apply(portion, portion[-1].mod_revision)
                    portion, weight = [], 0
                yield from self._apply_staged(of_revision, mod_revision)
                continue
            portion += of_revision
            weight += own
            if weight >= AT_ONCE:
                self.apply(portion, mod_revision)
                portion, weight = [], 0
                yield
        self.apply(portion, revision)

    def _apply_staged(self, events: Sequence[Event], revision: int) -> Iterator[None]:
        incoming = Incoming(self, is_complete=False)
        try:
            yield from incoming.add([event for event in events if isinstance(event, Entry)])
            incoming.remove([event.key for event in events if isinstance(event, Deletion)])
            yield from incoming.complete(revision, events)
        finally:
            incoming.drop()

    def receive(self, guarded: bool = True, becomes_stale: bool = False) -> Incoming:
        """Begin a complete snapshot, which takes the place of everything.

        Args:
            guarded: unless the guard objects.
            becomes_stale: whether it is of unknown age, and the store stale from then on.
        """
        return Incoming(self, is_complete=True, guarded=guarded, becomes_stale=becomes_stale)

    # parts of the above that a snapshot needs as well

    def stagings(self) -> list[Staging]:
        """Let every listener begin to prepare."""
        return [stage() if stage is not None else _Collected(listener) for listener, stage in self._listeners]

    def decode(self, directory: str, id_: str, entry: Entry, last_good: bytes | None) -> Decoded:
        """Make an item of a record; when its value is not valid, ``last_good`` stays."""
        # One int object instead of two equal ones: with 100,000 routes that is 3 MB.
        create_revision = entry.mod_revision if entry.create_revision == entry.mod_revision else entry.create_revision
        try:
            value, warnings = self._decoders[directory](id_, entry.value)
        except InvalidResource as error:
            fault = error
        except Exception as error:  # a decoder with a fault must not cost the rest of the batch
            log.exception("decoding %s failed", entry.key)
            fault = InvalidResource("$", f"cannot be decoded: {error!r}")
        else:
            for warning in warnings:
                log.warning("%s at revision %d: %s", entry.key, entry.mod_revision, warning)
            item = Item(id_, entry.value, entry.value, entry.mod_revision, create_revision, entry.version)
            return Decoded(item, value, None)
        item = Item(id_, entry.value, last_good, entry.mod_revision, create_revision, entry.version)
        return Decoded(item, None, fault)

    def reject(self, key: str, revision: int, fault: InvalidResource) -> None:
        """List a value as not valid."""
        self.reject_all({key: Rejected(key, fault.path, fault.reason, revision)})

    def reject_all(self, rejected: Mapping[str, Rejected]) -> None:
        """List values as not valid; of very many the log has a few, for writing all would block."""
        self.rejections += len(rejected)
        self.rejected.update(rejected)
        for one in islice(rejected.values(), LOGGED):
            log.error(
                "%s at revision %d is not valid and is not used: %s: %s", one.key, one.revision, one.path, one.reason
            )
        if len(rejected) > LOGGED:
            log.error("%d more values are not valid; /v1/config/errors lists them", len(rejected) - LOGGED)

    def tell_replaced(self, revision: int) -> None:
        """Tell observers that a snapshot has been taken over."""
        for observer in self._observers:
            observer.replaced(revision)

    def tell_staged(self, events: Sequence[Event], revision: int) -> None:
        """Note that the events of one revision have been taken over."""
        self._applied(events, revision)
        self._tell_observers(events, revision)

    def count(self, directory: str, item: Item, sign: int) -> None:
        """Add an item to the digest of its directory, or take it out."""
        self.digests[directory] = (self.digests[directory] + sign * item_hash(directory, item)) % MODULUS

    def _applied(self, events: Sequence[Event], revision: int) -> None:
        self.revision = max(self.revision, revision)
        # Keys that are no resources may be written all the time, as the heartbeats of other gateways are.
        last = next((event for event in reversed(events) if place_of(event.key) is not None), None)
        if last is not None:
            self.changed = last.mod_revision
            self.last_event = time.time()

    def _tell_observers(self, events: Sequence[Event], revision: int) -> None:
        for observer in self._observers:
            observer.applied(events, revision)

    def _put(self, entry: Entry) -> Change | None:
        place = place_of(entry.key)
        if place is None:
            return None
        directory, id_ = place
        items = self.caches[directory].items
        before = items.get(id_)
        if before is not None:
            self.count(directory, before, -1)
            id_ = before.id
        decoded = self.decode(directory, id_, entry, before.good if before is not None else None)
        items[id_] = decoded.item
        self.count(directory, decoded.item, 1)
        if decoded.fault is not None:
            self.reject(entry.key, entry.mod_revision, decoded.fault)
            return None
        self.rejected.pop(entry.key, None)
        if before is not None and before.good == entry.value:
            return None  # written anew, but not changed: who uses it keeps its state
        return Change(directory, id_, decoded.value)

    def _delete(self, key: str) -> Change | None:
        place = place_of(key)
        if place is None:
            return None
        directory, id_ = place
        self.rejected.pop(key, None)
        item = self.caches[directory].items.pop(id_, None)
        if item is None:
            return None
        self.count(directory, item, -1)
        return None if item.good is None else Change(directory, id_, None)
