"""Which worker has applied what: ``/v1/sync``, ``/v1/sync/wait``, ``/v1/sync/confirm``, ``/status``.

Every worker answers for all of them, from the scoreboard.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

from config_sync.status import Held, SyncStatus
from worker.api.messages import Answer, Outcome, Pending, Request, failure, json_answer
from worker.api.record import decode_status
from worker.scoreboard import Entry, Scoreboard, WorkerState

DEFAULT_WAIT = 5.0  # seconds
LONGEST_WAIT = 60.0
_ARGUMENTS = frozenset(("revision", "timeout"))


class SyncHandlers:
    """Answers from the scoreboard; ``now`` is the loop's clock, which is the monotonic one, in seconds."""

    def __init__(self, board: Scoreboard, now: Callable[[], float]) -> None:
        self._board = board
        self._now = now

    def sync(self, _: Request) -> Outcome:
        """Show what every worker has applied, and whether they agree."""
        found = [(entry, decode_status(entry.published())) for entry in self._board.living()]
        ready = [(entry, status) for entry, status in found if entry.state == WorkerState.READY]
        newest = max((entry.generation for entry, _ in ready), default=0)
        digests = [status.digests for entry, status in ready if entry.generation == newest]
        return json_answer(
            200,
            {
                "agree": bool(digests) and all(one == digests[0] for one in digests),
                "revision": min((status.revision for _, status in ready), default=0),
                "workers": [_worker(entry, status, self._now()) for entry, status in found],
            },
        )

    def wait(self, request: Request) -> Outcome:
        """Answer when every worker that accepts has applied a revision, or tell which have not."""
        try:
            revision, timeout = wait_arguments(request.query)
        except ValueError as error:
            return failure(400, str(error))
        until = self._now() + timeout

        def poll(now: float) -> Answer | None:
            ready, missing = self._those_without(revision)
            if ready and not missing:
                self._board.promise(revision)
                # Again: one may have begun to accept before it could see the promise.
                ready, missing = self._those_without(revision)
                if ready and not missing:
                    return json_answer(200, {"revision": min(entry.revision for entry in ready)})
            if now < until:
                return None
            reason = f"revision {revision} has not been applied by all workers within {timeout:g} s"
            late = [_late(entry) for entry in missing or self._board.living()]
            return json_answer(504, {"error_msg": reason, "revision": revision, "missing": late})

        return Pending(poll)

    def _those_without(self, revision: int) -> tuple[list[Entry], list[Entry]]:
        ready = self._board.ready()
        return ready, [entry for entry in ready if entry.revision < revision]

    def confirm(self, _: Request) -> Outcome:
        """Let the reloads pass that the guard holds back."""
        found = [(entry.slot, decode_status(entry.published()).held) for entry in self._board.living()]
        slots = sorted({slot for slot, held in found if held is not None})
        if not slots:
            return failure(409, "no worker holds a reload back; there is nothing to confirm")
        self._board.confirm()
        return json_answer(200, {"confirmed": slots})

    def status(self, _: Request) -> Outcome:
        """Tell that this process serves."""
        return json_answer(200, {"status": "ok"})

    def ready(self, _: Request) -> Outcome:
        """Tell whether every slot has a worker that accepts (admin-api.md section 11)."""
        count = self._board.slots
        living = self._board.living()
        ready = {entry.slot for entry in living if entry.state == WorkerState.READY}
        missing = [slot for slot in range(count) if slot not in ready]
        if not missing:
            return json_answer(200, {"status": "ok"})
        starting = {entry.slot for entry in living if entry.state == WorkerState.STARTING}
        waiting = [slot for slot in missing if slot in starting]
        if waiting:
            error = f"worker id: {waiting[0]} has not received configuration"
        else:
            error = f"worker count: {count} but status report count: {count - len(missing)}"
        return json_answer(503, {"status": "error", "error": error})


def wait_arguments(query: str) -> tuple[int, float]:
    """Read revision and time-out (seconds) of a wait.

    Raises:
        ValueError: with what is wrong.
    """
    given = parse_qs(query, keep_blank_values=True)
    for name, values in given.items():
        if name not in _ARGUMENTS:
            raise ValueError(f"{name}: is no argument; there are revision and timeout")
        if len(values) > 1:
            raise ValueError(f"{name}: is given {len(values)} times")
    revision = given.get("revision", [""])[0]
    if not (revision.isascii() and revision.isdigit() and len(revision) < 20):
        raise ValueError("revision: must be a number, as in ?revision=123&timeout=5")
    try:
        timeout = float(given.get("timeout", [str(DEFAULT_WAIT)])[0])
    except ValueError:
        timeout = -1.0
    if not 0 <= timeout <= LONGEST_WAIT:
        raise ValueError(f"timeout: must be 0 to {LONGEST_WAIT:g} seconds")
    return int(revision), timeout


def _worker(entry: Entry, status: SyncStatus, now: float) -> dict[str, Any]:
    return {
        **_who(entry),
        "revision": status.revision,
        "changed": status.changed,
        "digests": {name: f"{digest:032x}" for name, digest in status.digests.items()},
        "counts": status.counts,
        "last_event": _timestamp(status.last_event),
        "last_error": status.last_error,
        "stage": status.stage,
        "endpoint": status.endpoint,
        "incidents": status.incidents,
        "rejected": status.rejected,
        "stale": status.stale,
        "held": _held(status.held, now),
    }


def _held(held: Held | None, now: float) -> dict[str, Any] | None:
    if held is None:
        return None
    return {"removes": held.removes, "of": held.of, "since": _timestamp(time.time() - (now - held.since))}


def _late(entry: Entry) -> dict[str, Any]:
    status = decode_status(entry.published())
    reasons = {name: True for name, holds in (("stale", status.stale), ("held", status.held is not None)) if holds}
    return {**_who(entry), "revision": status.revision, **reasons}


def _who(entry: Entry) -> dict[str, Any]:
    state = WorkerState(entry.state).name.lower()
    return {"slot": entry.slot, "pid": entry.pid, "generation": entry.generation, "state": state}


def _timestamp(seconds: float) -> str:
    """Write epoch seconds as RFC 3339, in UTC; empty for never."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
