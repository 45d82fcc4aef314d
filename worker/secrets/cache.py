"""SecretCache: what secret managers have, kept in memory so that no request has to wait for it.

A secret is fetched when it is first asked for, which a configuration does when it comes, and again and again after
that, as long as somebody refers to it. One that cannot be fetched stays what it was; one that is gone, or whose
manager is, is gone. Whoever refers to one is told when it has changed.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from heapq import heappop, heappush
from random import uniform
from typing import Any, Protocol

from config_sync import schema
from config_sync.cache import Change
from config_sync.errors import ConfigError
from config_sync.secrets import Place, SecretReference, member_of
from config_sync.steps import Stepper
from worker.secrets.source import SecretFailed, SecretNotThere, SecretSource

log = logging.getLogger("propylon.secrets")

KEPT = 300.0  # seconds until a secret is fetched again …
RETRY_AT_MOST = 60.0  # … and until one is that could not be: from one second on, twice as long each time
AT_ONCE = 8  # fetched at a time

Open = Callable[[schema.SecretManagerSettings], SecretSource]


class SecretUser(Protocol):
    """Who has references to secrets."""

    def uses_secret(self, place: Place) -> bool:
        """Tell whether a secret is still referred to."""

    def secret_changed(self, place: Place) -> Iterator[None]:
        """Take over, in steps, that a secret is another one."""


class _Entry:
    """What is known of one secret."""

    __slots__ = ("due", "failures", "is_fetching", "is_known", "keys", "value")

    def __init__(self) -> None:
        self.value: dict[str, Any] | str | None = None
        self.is_known = False  # that is, has been fetched, or been tried to
        self.is_fetching = False
        self.failures = 0
        self.due: float | None = None
        self.keys: set[str] = set()

    def text(self, key: str) -> str | None:
        """Return the value of a key; without one, of the whole."""
        if key:
            return member_of(self.value, key)
        return self.value if isinstance(self.value, str) else None


class SecretCache:
    """The secrets of all managers; the ``SecretManager`` of each of them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spawn: "Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]",
        open_source: Open,
    ) -> None:
        """``spawn`` starts what is cancelled when the worker ends; ``open_source`` may raise ConfigError."""
        self._loop = loop
        self._spawn = spawn
        self._open = open_source
        self._sources: dict[str, SecretSource] = {}  # by manager and id, as in "vault/1"
        self._entries: dict[Place, _Entry] = {}
        self._due: list[tuple[float, Place]] = []
        self._fetching = 0
        self._timer: asyncio.TimerHandle | None = None
        self._users: list[SecretUser] = []
        self._stepper = Stepper(loop)
        self._unknown: set[Place] = set()  # those to be fetched for the first time
        self._waiting: asyncio.Future[None] | None = None

    def add_user(self, user: SecretUser) -> None:
        """Tell somebody of changes, and ask whether secrets are still needed."""
        self._users.append(user)

    def secret(self, reference: SecretReference) -> str | None:
        """Return a value, when it has been fetched; else it will be."""
        entry = self._entries.get(reference.place)
        if entry is None:
            entry = self._entries[reference.place] = _Entry()
            self._begin(reference.place, entry)
        entry.keys.add(reference.key)
        return entry.text(reference.key)

    async def settled(self, within: float) -> None:
        """Wait until all that was asked for has been fetched, or tried to, and taken over; or some seconds."""
        if self._is_settled():
            return
        self._waiting = self._loop.create_future()
        try:
            async with asyncio.timeout(within):
                await self._waiting
        except TimeoutError:
            log.error("serves without %d secrets, which have not been fetched in %g s", len(self._unknown), within)

    def _is_settled(self) -> bool:
        return not self._unknown and not self._stepper.is_busy()

    def _look_whether_settled(self) -> None:
        if self._waiting is not None and not self._waiting.done() and self._is_settled():
            self._waiting.set_result(None)

    # what the configuration says

    def changed(self, changes: Sequence[Change]) -> None:
        """Take over changes of the directory ``secrets``; others are passed over."""
        for change in changes:
            if change.directory == "secrets":
                self._source_changed(change.id, change.new)

    def stage(self) -> "_Staging":
        """Begin to collect the changes of a snapshot."""
        return _Staging(self)

    def _source_changed(self, id_: str, settings: schema.SecretManagerSettings | None) -> None:
        self._sources.pop(id_, None)
        if settings is not None:
            try:
                self._sources[id_] = self._open(settings)
            except ConfigError as error:
                log.error("secrets/%s cannot be used: %s", id_, error)
        for place, entry in self._entries.items():
            if f"{place[0]}/{place[1]}" == id_:
                self._begin(place, entry)

    def _begin(self, place: Place, entry: _Entry) -> None:
        """Fetch a secret now, if there is somebody who can be asked; else it is not there."""
        if self._source_of(place) is not None:
            if not entry.is_known:
                self._unknown.add(place)
            entry.failures = 0
            self._schedule(place, entry, self._loop.time())
            return
        entry.due = None
        entry.is_known = False
        self._unknown.discard(place)
        self._take(place, entry, None)
        self._look_whether_settled()

    # fetching

    def _schedule(self, place: Place, entry: _Entry, when: float) -> None:
        entry.due = when
        heappush(self._due, (when, place))
        self._wake()

    def _wake(self) -> None:
        """Look at what is due when the next one is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due and self._fetching < AT_ONCE:
            self._timer = self._loop.call_at(self._due[0][0], self._fetch_due)

    def _fetch_due(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._due and self._due[0][0] <= now and self._fetching < AT_ONCE:
            when, place = heappop(self._due)
            entry, source = self._entries.get(place), self._source_of(place)
            if entry is None or source is None or entry.due != when or entry.is_fetching:
                continue
            if entry.is_known and not any(user.uses_secret(place) for user in self._users):
                del self._entries[place]
                continue
            self._fetching += 1
            entry.is_fetching = True
            self._spawn(self._fetch(place, entry, source))
        self._wake()

    async def _fetch(self, place: Place, entry: _Entry, source: SecretSource) -> None:
        value: dict[str, Any] | str | None = None
        reason = ""
        try:
            value = await source.fetch(place[2])
        except SecretNotThere as error:
            log.error("secret %s is not there: %s", "/".join(place), error)
        except SecretFailed as error:
            reason = str(error)
        except Exception as error:  # others are to be fetched all the same, and this one again
            reason = repr(error)
        self._fetching -= 1
        entry.is_fetching = False
        if self._source_of(place) is not source:
            self._begin(place, entry)
        elif reason:
            self._failed(place, entry, reason)
        else:
            self._told(place, entry, value)
        self._wake()
        self._look_whether_settled()

    def _failed(self, place: Place, entry: _Entry, reason: str) -> None:
        delay = min(2.0**entry.failures, RETRY_AT_MOST)
        entry.failures += 1
        entry.is_known = True
        self._unknown.discard(place)
        state = "is what it was" if entry.value is not None else "is not there"
        log.error("secret %s cannot be fetched and %s; next try in %d s: %s", "/".join(place), state, delay, reason)
        self._schedule(place, entry, self._loop.time() + delay)

    def _told(self, place: Place, entry: _Entry, value: dict[str, Any] | str | None) -> None:
        entry.failures = 0
        entry.is_known = True
        self._unknown.discard(place)
        self._schedule(place, entry, self._loop.time() + uniform(0.9, 1.0) * KEPT)  # noqa: S311 - workers take turns
        self._take(place, entry, value)
        for key in sorted(entry.keys) if value is not None else ():
            if entry.text(key) is None:
                log.error("secret %s has no value for the key %r", "/".join(place), key)

    def _source_of(self, place: Place) -> SecretSource | None:
        return self._sources.get(f"{place[0]}/{place[1]}")

    def _take(self, place: Place, entry: _Entry, value: dict[str, Any] | str | None) -> None:
        if value == entry.value:
            return
        entry.value = value
        for user in self._users:
            self._stepper.run(user.secret_changed(place), self._look_whether_settled)

    def close(self) -> None:
        """Fetch nothing more."""
        self._stepper.stop()
        self._due.clear()
        self._entries.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Staging:
    """The changes of a snapshot; managers are few."""

    def __init__(self, cache: SecretCache) -> None:
        self._cache = cache
        self._changes: list[Change] = []

    def add(self, changes: Sequence[Change]) -> None:
        self._changes += [change for change in changes if change.directory == "secrets"]

    def finish(self) -> Iterator[None]:
        return iter(())

    def commit(self) -> None:
        self._cache.changed(self._changes)

    def clean(self) -> Iterator[None]:
        return iter(())

    def drop(self) -> None:
        self._changes = []
