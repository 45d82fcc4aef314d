"""Watching over workers: those who hang, and those who do not end in time, are killed."""

import logging
import signal
from collections.abc import Iterable

from worker.observability.stacks import DUMP_SIGNAL
from worker.supervisor.child import KILL_AFTER, Child
from worker.supervisor.limits import Hang, hang_of

log = logging.getLogger("propylon.master")


def kill_the_overdue(children: Iterable[Child], now: float, heartbeat_timeout: float, startup_timeout: float) -> None:
    """Kill those who hang, after they had time to write their stacks, and those who do not end in time."""
    for child in children:
        if now >= child.kill_at:
            log.warning("worker %d does not stop, and is killed", child.pid)
            child.signal(signal.SIGKILL)
            child.kill_at = now + KILL_AFTER
        else:
            _check_heartbeat(child, now, heartbeat_timeout, startup_timeout)


def kill_the_hanging(children: Iterable[Child], now: float, silence: float) -> None:
    """Kill at once whoever was not heard of for so many seconds."""
    for child in children:
        if now - (child.entry.heartbeat_ns / 1e9 or child.born) >= silence:
            log.error("worker %d hangs, and is killed", child.pid)
            child.signal(signal.SIGKILL)


def _check_heartbeat(child: Child, now: float, heartbeat_timeout: float, startup_timeout: float) -> None:
    beat = child.entry.heartbeat_ns / 1e9
    silence = now - (beat or child.born)
    limit = heartbeat_timeout if beat else max(heartbeat_timeout, startup_timeout)
    asked = None if child.asked_for_stacks is None else now - child.asked_for_stacks
    hang = hang_of(silence, limit, asked)
    if hang is Hang.NOTHING:
        child.asked_for_stacks = None
    elif hang is Hang.ASK_FOR_STACKS:
        log.error("worker %d has not moved for %.0f seconds; its stacks follow, then it is killed", child.pid, silence)
        child.asked_for_stacks = now
        if beat:  # before, the signal would end it
            child.signal(DUMP_SIGNAL)
    elif hang is Hang.KILL:
        child.signal(signal.SIGKILL)
