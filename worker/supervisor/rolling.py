"""Rolling: carries out one rollout on the workers there are."""

import logging
import time
from collections import deque
from collections.abc import Iterable
from enum import Enum

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from worker.supervisor.child import Child, Slot
from worker.supervisor.files import check_logs
from worker.supervisor.orders import (
    Abandon,
    Check,
    Drain,
    Finish,
    Fork,
    Keep,
    Order,
    Pause,
    Plan,
    Refork,
    Resume,
    Retire,
)
from worker.supervisor.precheck import CheckMain, Precheck
from worker.supervisor.rollout import Rollout, Stage
from worker.supervisor.workers import Workers

log = logging.getLogger("propylon.master")


class Kind(Enum):
    """Why workers are replaced."""

    RELOAD = "reload"
    RESIZE = "resize"
    RECYCLE = "recycle"


def reload_plan(settings: Settings, slots: int) -> Plan:
    """Plan to replace all workers, and to have as many slots as the settings say, where there are ``slots``."""
    return resize_plan(settings, slots, settings.worker_count(), replace=True)


def resize_plan(settings: Settings, slots: int, count: int, replace: bool = False) -> Plan:
    """Plan to have ``count`` slots where there are ``slots``."""
    reload = settings.reload
    return Plan(
        replace=tuple(range(min(slots, count))) if replace else (),
        grow=tuple(range(slots, count)),
        retire=tuple(range(count, slots)),
        mode=reload.mode if replace else "all",
        check=replace,
        grace=reload.grace if replace else 0.0,
        drain_wait=reload.drain_wait,
        startup_timeout=settings.worker_startup_timeout,
        check_timeout=reload.check_timeout,
    )


def recycle_plan(settings: Settings, slot: int) -> Plan:
    """Plan to replace one worker."""
    return Plan(replace=(slot,), drain_wait=settings.reload.drain_wait, startup_timeout=settings.worker_startup_timeout)


class Rolling:
    """One rollout under way; ``result`` is there when it is over."""

    def __init__(
        self,
        kind: Kind,
        plan: Plan,
        workers: Workers,
        settings: Settings,
        generations: tuple[int, int],
        check_main: CheckMain,
    ) -> None:
        """Prepare to roll out ``settings``; ``generations`` are the one in force and the one to be."""
        self.kind = kind
        self.settings = settings
        self.began_ns = time.monotonic_ns()
        self.result: Finish | None = None
        self.precheck: Precheck | None = None
        self.generation = generations[1]
        self._old_generation = generations[0]
        self._count = len(workers.slots) + len(plan.grow) - len(plan.retire)
        self._workers = workers
        self._check_main = check_main
        self._slots = {slot.number: slot for slot in workers.slots}  # by number; those that are added come later
        self._involved = {*plan.replace, *plan.grow}
        self._rollout = Rollout(plan)

    @property
    def stage(self) -> Stage:
        """What it is doing."""
        return self._rollout.stage

    @property
    def due(self) -> float | None:
        """When ``tick`` is to be called at the latest."""
        return self._rollout.due

    # events

    def begin(self) -> None:
        """Begin."""
        try:
            if self.kind is Kind.RELOAD:
                check_logs(self.settings)
            elif self.kind is Kind.RESIZE:
                self._open()
        except SettingsError as error:
            self._carry_out(self._rollout.checked(str(error), time.monotonic()))
        else:
            self._carry_out(self._rollout.begin(time.monotonic()))

    def tick(self) -> None:
        """Time has passed."""
        self._carry_out(self._rollout.tick(time.monotonic()))

    def check_ended(self, cause: str) -> None:
        """The process of the check has ended."""
        precheck, self.precheck = self.precheck, None
        if precheck is None:
            return
        reason = precheck.verdict(cause)
        if not reason:
            try:
                self._open()
            except SettingsError as error:
                reason = str(error)
        self._carry_out(self._rollout.checked(reason, time.monotonic()))

    def involves(self, slot: Slot) -> bool:
        """Tell whether the worker of a slot is being replaced, or added."""
        return slot.number in self._involved

    def ready(self, slot: Slot, child: Child) -> None:
        """A worker of a slot that is involved serves."""
        if child is slot.successor:
            self._carry_out(self._rollout.ready(slot.number, time.monotonic()))
        elif child is slot.worker:  # and not one that was set aside, since it did not answer for long
            self._carry_out(self._rollout.returned(slot.number, time.monotonic()))

    def died(self, slot: Slot, reason: str) -> None:
        """A successor has died."""
        self._carry_out(self._rollout.died(slot.number, reason, time.monotonic()))

    def ended(self, slot: Slot) -> None:
        """A predecessor has died, or ended."""
        self._carry_out(self._rollout.ended(slot.number, time.monotonic()))

    def drop(self) -> None:
        """Give up, since everything is going to end."""
        if self.precheck is not None:
            self.precheck.drop()
            self.precheck = None

    # orders

    def _open(self) -> None:
        self._workers.open(self.settings, self._count)
        self._slots = {slot.number: slot for slot in self._workers.slots}

    def _carry_out(self, orders: Iterable[Order]) -> None:
        queue = deque(orders)
        while queue:
            queue.extend(self._do(queue.popleft()))
        self._workers.settle_adoptions()

    def _do(self, order: Order) -> list[Order]:
        """Carry out one order; returns what comes of it."""
        if isinstance(order, Check):
            return self._check()
        if isinstance(order, Finish):
            return self._finish(order)
        slot, workers = self._slots[order.slot], self._workers
        seconds = workers.settings.worker_shutdown_timeout
        if isinstance(order, Fork):
            return self._fork(slot)
        if isinstance(order, Refork):
            return self._refork(slot)
        if isinstance(order, Retire):
            workers.give_up(slot, seconds)
        elif isinstance(order, Abandon) and slot.successor is not None:
            slot.successor.drain("reload", seconds)
        elif isinstance(order, Keep):
            self._set_aside(slot)
            slot.worker, slot.successor = slot.successor, None
            log.error("slot %d has no worker of the old settings, and keeps the new one", slot.number)
        elif slot.worker is not None:
            if isinstance(order, Pause):
                slot.worker.pause()
            elif isinstance(order, Resume):
                slot.worker.resume()
            elif isinstance(order, Drain):
                slot.worker.drain("reload", seconds)
        return []

    def _check(self) -> list[Order]:
        try:
            self.precheck = Precheck(self.settings, lambda: self._workers.sockets_but([]), self._check_main)
        except OSError as error:
            reason = f"the check of the new settings cannot be forked: {error.strerror}"
            return self._rollout.checked(reason, time.monotonic())
        return []

    def _fork(self, slot: Slot) -> list[Order]:
        slot.respawn_at = None
        now = time.monotonic()
        try:
            slot.successor = self._workers.fork(slot, self.generation, self.settings)
        except OSError as error:
            return self._rollout.died(slot.number, f"a worker cannot be forked: {error.strerror}", now)
        return self._rollout.ended(slot.number, now) if slot.worker is None else []

    def _refork(self, slot: Slot) -> list[Order]:
        self._set_aside(slot)
        workers = self._workers
        try:
            slot.worker = workers.fork(slot, self._old_generation, workers.settings)
        except OSError as error:
            log.error("a worker for slot %d cannot be forked: %s", slot.number, error.strerror)
            return self._rollout.ended(slot.number, time.monotonic())
        return []

    def _set_aside(self, slot: Slot) -> None:
        if slot.worker is not None:
            slot.worker.drain("reload", self._workers.settings.worker_shutdown_timeout)
            slot.retired.append(slot.worker)
            slot.worker = None

    def _finish(self, finish: Finish) -> list[Order]:
        self.result = finish
        self.drop()
        workers = self._workers
        if finish.ok:
            workers.settings = self.settings
        for slot in workers.slots:
            leaving = slot.worker if finish.ok else slot.successor
            if slot.successor is not None:
                slot.worker = slot.successor if finish.ok else slot.worker
                slot.successor = None
                if finish.ok:
                    slot.failures = 0
                if leaving is not None:
                    slot.retired.append(leaving)
                workers.release_retired(slot)
        workers.close_unused()
        workers.scoreboard.set_slots(len(workers.slots))
        return []
