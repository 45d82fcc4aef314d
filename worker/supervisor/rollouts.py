"""Rollouts: which one is begun when, one at a time, and how it ended."""

import logging
import time
from dataclasses import dataclass

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from config_sync.settings_file import load_settings
from worker.supervisor.child import Child, Slot
from worker.supervisor.limits import excess_of, surplus
from worker.supervisor.orders import Plan
from worker.supervisor.precheck import CheckMain
from worker.supervisor.rolling import Kind, Rolling, recycle_plan, reload_plan, resize_plan
from worker.supervisor.workers import Workers

log = logging.getLogger("propylon.master")

HASTE = 5.0  # seconds that the oldest of too many generations gets
RECYCLE_REST = 10.0  # seconds between the recycling of one worker and that of the next
FIXED = ("runtime_dir", "pid", "user")  # settings: the files of those who run already depend on them
MAX_WORKERS = 1_024


@dataclass(frozen=True)
class Outcome:
    """How a rollout has ended; ``began_ns`` of the monotonic clock."""

    is_reload: bool
    ok: bool
    reason: str
    began_ns: int


class Rollouts:
    """The rollouts of a master, and the generations that come of them."""

    def __init__(self, conf: str, workers: Workers, check_main: CheckMain) -> None:
        self.generation = 1  # the one in force
        self.reloads = 0  # begun
        self.failure = ""  # of the last reload
        self._last_generation = 1  # that was tried
        self._conf = conf
        self._workers = workers
        self._check_main = check_main
        self._rolling: Rolling | None = None
        self._outcome: Outcome | None = None
        self._recycle_at = 0.0

    @property
    def is_under_way(self) -> bool:
        """Whether there is one that is not over."""
        return self._rolling is not None

    @property
    def due(self) -> float | None:
        """When ``tick`` is to be called at the latest."""
        return self._rolling.due if self._rolling is not None else None

    def take_outcome(self) -> Outcome | None:
        """Return how one has ended, once."""
        outcome, self._outcome = self._outcome, None
        return outcome

    # what is begun

    def reload(self) -> None:
        """Read the settings, and replace all workers."""
        self.reloads += 1
        log.info("reloading %s", self._conf)
        began_ns = time.monotonic_ns()
        in_force = self._workers.settings
        try:
            settings = load_settings(self._conf)
            if any(getattr(settings, name) != getattr(in_force, name) for name in FIXED):
                raise SettingsError(f"{', '.join(FIXED)} cannot be changed by a reload; restart instead")
        except SettingsError as error:
            self._reloaded(False, str(error), began_ns)
            return
        self._last_generation += 1
        self._roll(Kind.RELOAD, reload_plan(settings, len(self._workers.slots)), settings, self._last_generation)

    def resize(self, more: int) -> None:
        """Have so many workers more, or fewer."""
        workers = self._workers
        count = min(MAX_WORKERS, max(1, len(workers.slots) + more))
        if count != len(workers.slots):
            log.info("%d workers from now on", count)
            plan = resize_plan(workers.settings, len(workers.slots), count)
            self._roll(Kind.RESIZE, plan, workers.settings, self.generation)

    def _recycle(self, now: float) -> None:
        """Replace one worker that is beyond its limits, if there is one."""
        settings = self._workers.settings
        limits = settings.max_worker_rss, settings.max_worker_requests
        if not any(limits):
            return
        for slot in self._workers.slots:
            child = slot.worker
            if child is None or not child.serves:
                continue
            reason = excess_of(child.entry.rss, child.entry.requests, *limits, child.spread)
            if reason:
                log.info("worker %d is beyond %s, and is replaced", child.pid, reason)
                self._recycle_at = now + RECYCLE_REST
                self._roll(Kind.RECYCLE, recycle_plan(settings, slot.number), settings, self.generation)
                return

    def _roll(self, kind: Kind, plan: Plan, settings: Settings, generation: int) -> None:
        generations = self.generation, generation
        self._rolling = Rolling(kind, plan, self._workers, settings, generations, self._check_main)
        self._rolling.begin()

    def drop(self) -> None:
        """Give up what is under way, since everything is going to end."""
        if self._rolling is not None:
            self._rolling.drop()
            self._rolling = None

    # events

    def ready(self, slot: Slot, child: Child) -> None:
        """A worker serves."""
        if self._rolling is not None and self._rolling.involves(slot):
            self._rolling.ready(slot, child)

    def reaped(self, pid: int, cause: str) -> bool:
        """Take note of the end of a process; False when it is none that checks new settings."""
        rolling = self._rolling
        if rolling is None or rolling.precheck is None or rolling.precheck.pid != pid:
            return False
        rolling.check_ended(cause)
        return True

    def lost(self, slot: Slot, child: Child, is_successor: bool, cause: str) -> None:
        """A worker that was in its place has ended."""
        if self._rolling is None or not self._rolling.involves(slot):
            return
        if is_successor:
            self._rolling.died(slot, f"worker {child.pid} of slot {slot.number} died: {cause}")
        else:
            self._rolling.ended(slot)

    def tick(self, now: float) -> None:
        """Go on with what is under way; when nothing is, look whether a worker is to be recycled."""
        if self._rolling is not None:
            self._rolling.tick()
            if self._rolling.result is not None:
                self._conclude(self._rolling)
        elif now >= self._recycle_at:
            self._recycle(now)

    # ends

    def _conclude(self, rolling: Rolling) -> None:
        self._rolling = None
        result, workers = rolling.result, self._workers
        if result is None:
            return
        if rolling.kind is Kind.RELOAD and result.ok:
            self.generation = rolling.generation
        for slot in workers.slots:
            if slot.worker is None and slot.respawn_at is None:
                workers.fill(slot, self.generation, workers.settings)
        if rolling.kind is Kind.RELOAD:
            self._reloaded(result.ok, result.reason, rolling.began_ns)
        else:
            self._outcome = Outcome(False, result.ok, result.reason, rolling.began_ns)
            if result.ok:
                log.info("%d workers serve", len(workers.slots))
            else:
                log.error("the %s failed: %s", rolling.kind.value, result.reason)

    def _reloaded(self, ok: bool, reason: str, began_ns: int) -> None:
        if ok:
            log.info("generation %d serves", self.generation)
        else:
            log.error("reload failed, generation %d goes on: %s", self.generation, reason)
        self.failure = reason
        self._outcome = Outcome(True, ok, reason, began_ns)

    # old generations

    def has_room(self) -> bool:
        """Tell whether one generation more may drain; if not, the oldest are given little time."""
        leaving = [
            child for child in self._workers.everyone() if child.draining and child.generation != self.generation
        ]
        most = self._workers.settings.max_generations
        too_old = surplus((child.generation for child in leaving), most - 1)
        for child in leaving:
            if child.generation in too_old and child.hasten(HASTE):
                log.warning("worker %d of generation %d has %g seconds left", child.pid, child.generation, HASTE)
        return not too_old
