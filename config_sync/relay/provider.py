"""RelayProvider: configuration by one watch per node.

                    ┌──────────────── the lock was free ────────────────┐
                    │                                                   ▼
    IDLE ─► FOLLOWING ─── the leader is silent ───► ALONE ─ lock ─► LEADING
                ▲  ▲                                  │                 │
                │  └── the leader speaks again ───────┘                 │
                └───────────────────────── steps down ──────────────────┘

Who leads runs a provider of its own, the watch, and serves what comes by it. Who follows receives that. A leader
that is stopped, or hangs, holds the lock and says nothing: then followers watch the store themselves, until it speaks
again. In each role a worker's store stands at a revision, and whoever delivers next begins there: nothing is lost on
the way from one role to another, and nothing is read twice.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path

from config_sync.cache import ConfigStore, Event, Item
from config_sync.errors import SettingsError
from config_sync.provider import Provider, ProviderState
from config_sync.relay.election import Lock
from config_sync.relay.follower import FollowerLink, total_digest
from config_sync.relay.history import History
from config_sync.relay.leader import RelayServer

log = logging.getLogger("propylon.sync")

POLL = 0.2  # seconds between two tries for the lock
RETRY = 0.02  # after the link is lost: somebody else has the lock by then
SILENCE = 2.0  # seconds; a leader says something every 0.3


class Role(Enum):
    """What a worker is to its siblings."""

    IDLE = "idle"  # not started, or stopped
    FOLLOWING = "following"
    LEADING = "leading"
    ALONE = "alone"  # there is a leader, but it says nothing


class Trigger(Enum):
    """What changes the role."""

    START = "start"
    ELECTED = "elected"
    SILENT = "silent"
    WELCOMED = "welcomed"
    STEP_DOWN = "step down"
    STOP = "stop"


TRANSITIONS: dict[Role, dict[Trigger, Role]] = {
    Role.IDLE: {Trigger.START: Role.FOLLOWING, Trigger.STOP: Role.IDLE},
    Role.FOLLOWING: {
        Trigger.ELECTED: Role.LEADING,
        Trigger.SILENT: Role.ALONE,
        Trigger.WELCOMED: Role.FOLLOWING,
        Trigger.STOP: Role.IDLE,
    },
    Role.ALONE: {Trigger.ELECTED: Role.LEADING, Trigger.WELCOMED: Role.FOLLOWING, Trigger.STOP: Role.IDLE},
    Role.LEADING: {Trigger.STEP_DOWN: Role.FOLLOWING, Trigger.STOP: Role.IDLE},
}


class RelayProvider:
    """A provider for one of several workers of a node."""

    def __init__(
        self,
        directory: Path,
        name: str,
        make_watch: Callable[[Callable[[int], None]], Provider],
        store: ConfigStore,
        loop: asyncio.AbstractEventLoop,
        on_progress: Callable[[int], None],
    ) -> None:
        """Prepare.

        Args:
            directory: where lock and socket are made; nobody else may write there.
            name: what is watched, see ``election.relay_name``.
            make_watch: makes a provider that goes on from the revision the store has then, and calls what it is given.
            store: where everything goes.
            loop: to run on.
            on_progress: called with a revision when everything up to there is in place.

        Raises:
            SettingsError: a watch cannot be made of the settings.
        """
        self.history = History()
        self.role = Role.IDLE
        self._path = directory / f"sync-{name}.sock"
        self._lock = Lock(directory / f"sync-{name}.lock")
        self._make_watch = make_watch
        self._store = store
        self._loop = loop
        self._on_progress = on_progress
        make_watch(self._watched)  # only to learn at the start whether the settings are of use
        self._watch: Provider | None = None
        self._server: RelayServer | None = None
        self._link: FollowerLink | None = None
        self._is_candidate = True
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0.0
        self._silence = 0.0  # seconds in which we have run and heard nothing
        self._last_error = ""
        self._incidents = 0
        self.replaced(store.revision)
        store.observe(self)

    # the provider's interface

    def start(self) -> None:
        """Lead if nobody does, else follow."""
        self._move(Trigger.START)
        self._ticked = self._loop.time()
        self._tick()

    def stop(self) -> None:
        """Deliver nothing more; whoever follows us finds another leader at once."""
        self._is_candidate = False
        self._move(Trigger.STOP)
        self._store.unobserve(self)

    def step_down(self) -> None:
        """Leave leading to others, and follow."""
        self._is_candidate = False
        if self.role is Role.LEADING:
            log.info("relay: leaves the lead to another worker")
            self._move(Trigger.STEP_DOWN)

    def stand_again(self) -> None:
        """Lead again when nobody does."""
        self._is_candidate = True

    def state(self) -> ProviderState:
        """Tell what is under way; the stage begins with the role."""
        if self._watch is None:
            return ProviderState(
                self.role.value, f"unix:{self._path}", self._store.revision, self._last_error, self._incidents
            )
        watch = self._watch.state()
        return replace(
            watch,
            stage=f"{self.role.value}: {watch.stage}",
            last_error=watch.last_error or self._last_error,
            incidents=watch.incidents + self._incidents,
        )

    # what the store tells

    def applied(self, events: Sequence[Event], revision: int) -> None:
        """Note a batch, and pass it on."""
        self.history.append(events, revision, total_digest(self._store))
        self._pass_on()

    def replaced(self, revision: int) -> None:
        """Note that everything has been replaced; followers have to compare."""
        self.history.reset(revision, total_digest(self._store))
        self._pass_on()

    def _pass_on(self) -> None:
        if self._server is not None:
            self._server.pump()

    # what the leader's feeds ask

    def is_ready(self) -> bool:
        """Tell whether the store holds what was compared with etcd, at a known revision."""
        return self._store.revision > 0 and not self._store.stale

    def is_watching(self) -> bool:
        """Tell whether the watch would tell us of a change now."""
        return self._watch is not None and self._watch.state().stage == "watching"

    def items(self) -> list[tuple[str, list[Item]]]:
        """Return everything there is at this instant."""
        return [(directory, list(cache.items.values())) for directory, cache in self._store.caches.items()]

    # what the link tells

    def welcomed(self, pid: int) -> None:
        """Follow."""
        log.info("relay: follows worker %d from revision %d", pid, self._store.revision)
        self._move(Trigger.WELCOMED)

    def heard(self) -> None:
        """Note that the leader is alive."""
        self._silence = 0.0

    def followed(self, revision: int) -> None:
        """Tell that everything up to a revision is in place."""
        self._last_error = ""
        self.history.advance(revision)
        self._on_progress(revision)

    def differed(self, reason: str) -> None:
        """Begin anew with everything."""
        self._incidents += 1
        self._link = None
        self._report(f"{reason}; it is read again")

    def lost(self, reason: str) -> None:
        """Try for the lock at once; whoever gets it listens by the time of the next try."""
        log.info("relay: %s", reason)
        self._link = None
        if not self._contend():
            self._set_timer(RETRY)

    # changing roles

    def _move(self, trigger: Trigger) -> None:
        self.role = TRANSITIONS[self.role][trigger]
        self._end_what_is_not_needed()
        if self.role is Role.IDLE and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.role in (Role.LEADING, Role.ALONE) and self._watch is None:
            self._start_watch()
        if self.role is Role.LEADING:
            self._serve()

    def _start_watch(self) -> None:
        try:
            self._watch = self._make_watch(self._watched)
        except SettingsError as error:
            # A certificate file has gone since the start, perhaps for a moment; siblings would find the same.
            self._report(f"cannot watch etcd: {error}; it is tried again")
            return
        self._watch.start()

    def _end_what_is_not_needed(self) -> None:
        if self._server is not None and self.role is not Role.LEADING:
            self._server.stop()
            self._server = None
        if self._watch is not None and self.role not in (Role.LEADING, Role.ALONE):
            self._watch.stop()
            self._incidents += self._watch.state().incidents
            self._watch = None
        if self._lock.is_held and self.role is not Role.LEADING:
            self._lock.release()
        if self._link is not None and self.role is not Role.FOLLOWING:
            self._link.close()
            self._link = None

    def _tick(self) -> None:
        self._set_timer(POLL)
        now = self._loop.time()
        # Time in which this process did not run is no silence of the leader's.
        self._silence += min(now - self._ticked, POLL)
        self._ticked = now
        if self.role in (Role.LEADING, Role.ALONE) and self._watch is None:
            self._start_watch()  # that has failed so far
            if self._watch is not None:
                self._last_error = ""
        if self.role is Role.LEADING:
            self._serve()
        elif not self._contend():
            self._follow()

    def _set_timer(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay, self._tick) if self.role is not Role.IDLE else None

    def _contend(self) -> bool:
        """Lead, if nobody does."""
        if not self._is_candidate or self.role not in (Role.FOLLOWING, Role.ALONE):
            return False
        try:
            is_free = self._lock.take()
        except OSError as error:
            self._report(f"cannot try for the lead: {error}; every worker that cannot watches etcd itself")
            return False
        if is_free:
            log.info("relay: leads from revision %d", self._store.revision)
            self._last_error = ""
            self._move(Trigger.ELECTED)
        return is_free

    def _follow(self) -> None:
        if self._link is not None and self._link.is_working():
            self._silence = 0.0  # with a long queue nothing is read
        if self.role is Role.FOLLOWING and self._silence >= SILENCE and self._is_candidate:
            self._report(f"no leader has been heard for {SILENCE:g} s; watches etcd itself until one is")
            self._move(Trigger.SILENT)
        if self._link is None:
            link = FollowerLink(self._path, self._store, self._loop, self)
            try:
                link.open()
            except OSError:
                return  # the next tick tries again
            self._link = link

    def _serve(self) -> None:
        if self._server is not None:
            return
        server = RelayServer(self._path, self, self._loop)
        try:
            server.start()
        except OSError as error:
            self._report(f"cannot listen for followers: {error}; each of them watches etcd itself")
            return
        self._server = server

    def _watched(self, revision: int) -> None:
        self.history.advance(revision)
        self._pass_on()
        self._on_progress(revision)

    def _report(self, text: str) -> None:
        if text != self._last_error:
            log.error("relay: %s", text)
        self._last_error = text
