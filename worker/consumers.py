"""Consumers by what they prove themselves with: for each authenticating plugin a dictionary, changed entry by entry.

A credential belongs to the consumer whose name is in its key; without that consumer it opens nothing. Where two have
the same value, the one whose key comes first counts, in all workers alike, and the log says so. What is disabled
opens nothing.

Up to ``IN_PLACE`` records of a snapshot are entered when it becomes visible; for more, a second index is filled in
steps and takes the live one's place.
"""

import logging
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from config_sync import schema
from config_sync.cache import Change
from config_sync.schema.plugins import is_disabled
from config_sync.secrets import Place, places_in
from worker.collector import Pause
from worker.plugins.references import Referring

log = logging.getLogger("propylon.consumers")

IN_PLACE = 256  # records entered in one step: less than 1 ms
LOGGED = 20  # duplicates of one snapshot

Record = schema.Consumer | schema.Credential
Decode = Callable[[str, Mapping[str, Any], str], "tuple[str, msgspec.Struct] | None"]


class AttachedConsumer(NamedTuple):
    """Who a request is from, and how that was proved."""

    username: str
    credential_id: str | None
    group_id: str | None
    labels: Mapping[str, Any]
    has_plugins: bool
    auth: Any  # the consumer's or credential's configuration of the plugin that has found it

    @property
    def custom_id(self) -> str | None:
        """The label that is told to upstreams."""
        value = self.labels.get("custom_id")
        return None if value is None else str(value)


class _Person(NamedTuple):
    """What there is to know of a consumer."""

    group_id: str | None
    labels: Mapping[str, Any]
    has_plugins: bool


class _Claim(NamedTuple):
    """One value, and for whom it stands."""

    key: str  # of the record, below ``consumers/``
    plugin: str
    value: str
    username: str
    credential_id: str | None
    auth: Any


class _Entry(NamedTuple):
    """What a record says; nothing at all when it is gone."""

    key: str
    person: _Person | None = None
    claims: tuple[_Claim, ...] = ()
    source: Record | None = None  # itself, when it refers to secrets …
    places: frozenset[Place] = frozenset()  # … which are these


class _Index:
    """What records say, by key, and their claims by plugin and value, those of one value in the order of their keys."""

    __slots__ = ("entries", "found", "referring")

    def __init__(self) -> None:
        self.referring = Referring()
        self.entries: dict[str, _Entry] = {}
        self.found: dict[str, dict[str, list[_Claim]]] = {}

    def person(self, username: str) -> _Person | None:
        """Return a consumer."""
        entry = self.entries.get(username)
        return entry.person if entry is not None else None

    def enter(self, entry: _Entry) -> list[_Claim]:
        """Take over what a record says; returns the claims whose value another has too."""
        self._forget(entry.key)
        self.referring.note(entry.key, entry.places)
        if entry.person is not None or entry.claims or entry.source is not None:
            self.entries[entry.key] = entry
        return [claim for claim in entry.claims if self._claim(claim)]

    def _claim(self, claim: _Claim) -> bool:
        claims = self.found.setdefault(claim.plugin, {}).setdefault(claim.value, [])
        insort(claims, claim, key=_key_of)
        return len(claims) > 1

    def _forget(self, key: str) -> None:
        entry = self.entries.pop(key, None)
        for claim in entry.claims if entry is not None else ():
            values = self.found[claim.plugin]
            claims = values[claim.value]
            del claims[bisect_left(claims, key, key=_key_of)]
            if not claims:
                del values[claim.value]

    def put_away(self) -> Iterator[None]:
        """Free all of it, in steps."""
        yield from _freed(self.entries)
        for values in self.found.values():
            yield from _freed(values)


class Consumers:
    """All consumers and credentials, ready to be found."""

    def __init__(self, decode: Decode, credentials: frozenset[str] = schema.AUTHENTICATION) -> None:
        """Begin without any.

        Args:
            decode: makes of a plugin's name, a configuration and the key of its record the value that it is found by,
                and the typed form; None when it opens nothing.
            credentials: plugins whose configuration in a consumer is one, and does not run.
        """
        self._credentials = credentials
        self._decode = decode
        self._index = _Index()
        self._secret_changes = 0

    def changed(self, changes: Sequence[Change]) -> None:
        """Take over changes of the directory ``consumers``; others are passed over."""
        shared: list[_Claim] = []
        for change in changes:
            if change.directory == "consumers":
                shared += self._index.enter(self._entry(change.id, change.new))
        self._tell(shared)

    def stage(self) -> "_Staging":
        """Begin to collect the changes of a snapshot."""
        return _Staging(self)

    def _entry(self, key: str, new: Record | None) -> _Entry:
        if new is None:
            return _Entry(key)
        person, username, credential_id = None, key, None
        if isinstance(new, schema.Credential):
            username, _, credential_id = key.partition("/credentials/")
        else:
            others = new.plugins.keys() - self._credentials
            person = _Person(new.group_id, new.labels or {}, bool(others))
        claims = []
        for plugin, config in new.plugins.items():
            decoded = self._decode(plugin, config, f"consumers/{key}") if not is_disabled(config) else None
            if decoded is not None:
                claims.append(_Claim(key, plugin, decoded[0], username, credential_id, decoded[1]))
        places = places_in(new.plugins)
        return _Entry(key, person, tuple(claims), new if places else None, places)

    def uses_secret(self, place: Place) -> bool:
        """Tell whether a secret is referred to; see ``SecretUser``."""
        return place in self._index.referring

    def secret_changed(self, place: Place) -> Iterator[None]:
        """Decode again, in steps, what refers to a secret that is another one now."""
        self._secret_changes += 1
        yield from self._renewed(self._index.referring.keys_of(place))

    def _renewed(self, keys: Sequence[str]) -> Iterator[None]:
        for key in keys:
            entry = self._index.entries.get(key)
            if entry is not None and entry.source is not None:
                self._tell(self._index.enter(self._entry(key, entry.source)))
            yield

    def _tell(self, shared: Sequence[_Claim]) -> None:
        """Say which values are not unique; what they are is nobody's business."""
        for claim in islice(shared, LOGGED):
            claims = self._index.found[claim.plugin].get(claim.value, ())
            keys = ", ".join(f"consumers/{other.key}" for other in claims[:3])
            log.error("%s: what must be unique is in more than one of %s; the first counts", claim.plugin, keys)
        if len(shared) > LOGGED:
            log.error("%d more credentials are not unique", len(shared) - LOGGED)

    def find(self, plugin: str, value: str) -> AttachedConsumer | None:
        """Return whom a value stands for with an authenticating plugin."""
        index = self._index
        values = index.found.get(plugin)
        for claim in values.get(value, ()) if values is not None else ():
            person = index.person(claim.username)
            if person is not None:
                return AttachedConsumer(claim.username, claim.credential_id, *person, claim.auth)
        return None

    def attached(self, username: str) -> AttachedConsumer | None:
        """Return a consumer by name, as for ``anonymous_consumer``; None when there is none."""
        person = self._index.person(username)
        return AttachedConsumer(username, None, *person, None) if person is not None else None


class _Staging:
    """The changes of a snapshot on their way into the index."""

    def __init__(self, consumers: Consumers) -> None:
        self._consumers = consumers
        self._entries: dict[str, _Entry] = {}
        self._aside: _Index | None = None
        self._shared: list[_Claim] = []
        self._secret_changes = consumers._secret_changes
        self._pause = Pause()

    def add(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.directory == "consumers":
                self._entries[change.id] = self._consumers._entry(change.id, change.new)
        if len(self._entries) > IN_PLACE:
            self._pause.begin()

    def finish(self) -> Iterator[None]:
        if len(self._entries) <= IN_PLACE:
            return
        index = _Index()
        for at, entry in enumerate(self._consumers._index.entries.values()):
            if entry.key not in self._entries:
                index.enter(entry)
            if at % IN_PLACE == IN_PLACE - 1:
                yield
        for at, entry in enumerate(self._entries.values()):
            self._shared += index.enter(entry)
            if at % IN_PLACE == IN_PLACE - 1:
                yield
        self._aside = index

    def commit(self) -> None:
        consumers = self._consumers
        if self._aside is None:
            for entry in self._entries.values():
                self._shared += consumers._index.enter(entry)
        else:
            consumers._index, self._aside = self._aside, consumers._index
        consumers._tell(self._shared)

    def clean(self) -> Iterator[None]:
        consumers = self._consumers
        if consumers._secret_changes != self._secret_changes:
            # What was decoded or copied before a secret had changed is of the old one.
            yield from consumers._renewed(consumers._index.referring.keys())
        yield from _freed(self._entries)
        if self._aside is not None:
            yield from self._aside.put_away()
        self._pause.end()

    def drop(self) -> None:
        self._entries = {}
        self._aside = None
        self._pause.end()


def _freed(table: dict[str, Any]) -> Iterator[None]:
    """Empty a table, in steps."""
    while table:
        for _ in range(min(IN_PLACE, len(table))):
            table.popitem()
        yield


def _key_of(claim: _Claim) -> str:
    return claim.key
