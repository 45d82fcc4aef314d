"""The configuration as a worker holds it: one cache per directory, changed in place, key by key.

All events of a batch are in the caches before any listener is told, and listeners run in the same step of the
event loop: a request sees either none or all of a revision. A value that is not valid never takes the place of
one that was; it is listed in ``rejected`` until a good one is written.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from config_sync.errors import InvalidResource
from config_sync.schema import DIRECTORIES

log = logging.getLogger("propylon.sync")


class Entry(NamedTuple):
    """A key-value record as the store holds it."""

    key: str  # below the prefix, as in "routes/1"
    value: bytes
    mod_revision: int
    create_revision: int = 0
    version: int = 0


class Deletion(NamedTuple):
    """A key that is no more."""

    key: str
    mod_revision: int


Event = Entry | Deletion


class Item:
    """One key of a directory: what was written, and the last good value made of it."""

    __slots__ = ("create_revision", "id", "mod_revision", "raw", "value", "version")

    def __init__(self, id_: str, entry: Entry, value: Any) -> None:
        self.id = id_
        self.raw = entry.value
        self.mod_revision = entry.mod_revision
        self.create_revision = entry.create_revision
        self.version = entry.version
        self.value = value  # None: never valid

    def is_of(self, entry: Entry) -> bool:
        """Tell whether this is the very record."""
        return (
            self.mod_revision == entry.mod_revision
            and self.create_revision == entry.create_revision
            and self.version == entry.version
            and self.raw == entry.value
        )


@dataclass(frozen=True)
class Rejected:
    """A value that is not valid."""

    key: str
    path: str
    reason: str
    revision: int


class Change(NamedTuple):
    """A value that listeners have to take over; None stands for absence."""

    directory: str
    id: str
    old: Any
    new: Any


class Decoded(NamedTuple):
    """What a decoder made of an entry."""

    entry: Entry
    value: Any
    warnings: Sequence[str]
    fault: InvalidResource | None


class PrefixCache:
    """The items of one directory by id."""

    __slots__ = ("directory", "items")

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.items: dict[str, Item] = {}

    def __repr__(self) -> str:
        """Show directory and size."""
        return f"<PrefixCache {self.directory} {len(self.items)}>"


Listener = Callable[[Sequence[Change]], None]


def place_of(key: str) -> tuple[str, str] | None:
    """Split a key below the prefix into directory and id; None for what is no resource.

    Placeholders (a directory with an empty id), directories we do not know (``gen_id``, ``data_plane``) and what
    is nested below services are no resources (data-model.md section 1).
    """
    directory, slash, id_ = key.partition("/")
    if directory == "plugins":
        return None if slash else (directory, "")
    if not id_ or directory not in DIRECTORIES or (directory == "services" and "/" in id_):
        return None
    return directory, id_


def _decoded(place: tuple[str, str], entry: Entry) -> Decoded:
    directory, id_ = place
    decode = DIRECTORIES[directory]
    if decode is None:
        return Decoded(entry, entry.value, (), None)
    try:
        value, warnings = decode(id_, entry.value)
    except InvalidResource as fault:
        return Decoded(entry, None, (), fault)
    except Exception as error:  # a decoder with a fault must not cost the rest of the batch
        log.exception("decoding %s failed", entry.key)
        return Decoded(entry, None, (), InvalidResource("$", f"cannot be decoded: {error!r}"))
    return Decoded(entry, value, warnings, None)


class ConfigStore:
    """All directories, at one revision."""

    def __init__(self) -> None:
        self.caches = {directory: PrefixCache(directory) for directory in DIRECTORIES}
        self.revision = 0
        self.rejected: dict[str, Rejected] = {}
        self.rejections = 0  # values refused since the start
        self._listeners: list[Listener] = []
        self._prepared: dict[str, Decoded] = {}  # by key, until the snapshot is complete

    def subscribe(self, listener: Listener) -> None:
        """Tell a listener of every change from now on."""
        self._listeners.append(listener)

    def apply(self, events: Iterable[Event], revision: int) -> None:
        """Take over the events of whole revisions, in order, up to ``revision``."""
        changes = [self._put(event) if isinstance(event, Entry) else self._delete(event.key) for event in events]
        self.revision = max(self.revision, revision)
        self._tell([change for change in changes if change is not None])

    def prepare(self, entries: Iterable[Entry]) -> None:
        """Decode a part of a snapshot that is coming, so that ``replace`` holds nobody up; nothing changes yet."""
        for entry in entries:
            place = place_of(entry.key)
            if place is not None and not self._has(entry):
                self._prepared[entry.key] = _decoded(place, entry)

    def replace(self, entries: Mapping[str, Entry], revision: int) -> None:
        """Become equal to a complete snapshot; items that have not changed stay as they are."""
        gone = [key for key in self._keys() if key not in entries]
        fresh = [entry for entry in entries.values() if not self._has(entry)]
        changes = [self._delete(key) for key in gone] + [self._put(entry) for entry in fresh]
        self._prepared.clear()
        self.revision = revision
        self._tell([change for change in changes if change is not None])

    def _tell(self, changes: list[Change]) -> None:
        if not changes:
            return
        for listener in self._listeners:
            try:
                listener(changes)
            except Exception:  # it must cost neither the other listeners nor the provider their update
                log.exception("a listener failed on %d changes at revision %d", len(changes), self.revision)

    def _keys(self) -> Iterable[str]:
        for directory, cache in self.caches.items():
            for id_ in cache.items:
                yield directory if directory == "plugins" else f"{directory}/{id_}"

    def _has(self, entry: Entry) -> bool:
        place = place_of(entry.key)
        if place is None:
            return True
        item = self.caches[place[0]].items.get(place[1])
        # The revision alone does not tell: a store that was wiped counts from 1 again.
        return item is not None and item.is_of(entry)

    def _put(self, entry: Entry) -> Change | None:
        place = place_of(entry.key)
        if place is None:
            return None
        directory, id_ = place
        cache = self.caches[directory]
        before = cache.items.get(id_)
        old = before.value if before is not None else None
        decoded = self._prepared.pop(entry.key, None)
        if decoded is None or decoded.entry is not entry:
            decoded = _decoded(place, entry)
        if decoded.fault is not None:
            self._reject(entry, decoded.fault)
            cache.items[id_] = Item(id_, entry, old)
            return None
        for warning in decoded.warnings:
            log.warning("%s at revision %d: %s", entry.key, entry.mod_revision, warning)
        self.rejected.pop(entry.key, None)
        cache.items[id_] = Item(id_, entry, decoded.value)
        return Change(directory, id_, old, decoded.value)

    def _reject(self, entry: Entry, error: InvalidResource) -> None:
        self.rejections += 1
        self.rejected[entry.key] = Rejected(entry.key, error.path, error.reason, entry.mod_revision)
        log.error(
            "%s at revision %d is not valid and is not used: %s: %s",
            entry.key,
            entry.mod_revision,
            error.path,
            error.reason,
        )

    def _delete(self, key: str) -> Change | None:
        place = place_of(key)
        if place is None:
            return None
        directory, id_ = place
        self.rejected.pop(key, None)
        item = self.caches[directory].items.pop(id_, None)
        return None if item is None or item.value is None else Change(directory, id_, item.value, None)
