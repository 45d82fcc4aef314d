"""Who is alive, and how they are: ``/v1/processes``.

Any worker answers for all, from the scoreboard alone: nothing is read from files, and nobody is asked.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from itertools import groupby
from typing import Any

from worker.api.messages import Outcome, Request, json_answer
from worker.api.record import decode_status
from worker.scoreboard import Entry, Scoreboard, WorkerState
from worker.supervisor.record import MasterRecord, read_record

HUNG = "hung"


class ProcessHandlers:
    """Answers from the scoreboard."""

    def __init__(
        self, board: Scoreboard, heartbeat_timeout: float, now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Take a worker for hung whose loop has not run for ``heartbeat_timeout`` seconds."""
        self._board = board
        self._hung_after_ns = heartbeat_timeout * 1e9
        self._now_ns = now_ns

    def processes(self, _: Request) -> Outcome:
        """Show the master, the slots, and the workers by generation, the newest first."""
        board, now = self._board, self._now_ns()
        living = board.living()
        by_generation = sorted(living, key=lambda entry: (-entry.generation, entry.slot))
        generations = [
            self._generation(generation, list(entries), now)
            for generation, entries in groupby(by_generation, lambda entry: entry.generation)
        ]
        return json_answer(
            200,
            {
                "master": _master(read_record(board), now),
                "slots": [self._slot(slot, living) for slot in range(board.slots)],
                "generations": generations,
            },
        )

    def _slot(self, slot: int, living: Iterable[Entry]) -> dict[str, Any]:
        serving = [entry.pid for entry in living if entry.slot == slot and entry.state == WorkerState.READY]
        return {"slot": slot, "pid": serving[-1] if serving else None, "restarts": self._board.restarts(slot)}

    def _generation(self, generation: int, entries: list[Entry], now: int) -> dict[str, Any]:
        workers = [self._worker(entry, now) for entry in entries]
        return {"generation": generation, "state": _common({entry.state for entry in entries}), "workers": workers}

    def _worker(self, entry: Entry, now: int) -> dict[str, Any]:
        status = decode_status(entry.published())
        silent_ns = now - (entry.heartbeat_ns or entry.born_ns)
        state = WorkerState(entry.state).name.lower()
        return {
            "slot": entry.slot,
            "pid": entry.pid,
            "generation": entry.generation,
            "state": HUNG if silent_ns > self._hung_after_ns else state,
            "age": _seconds(now - entry.born_ns),
            "heartbeat_age": _seconds(silent_ns),
            "revision": status.revision,
            "digest": digest_of_all(status.digests),
            "connections": {
                "idle": entry.idle,
                "active": entry.active,
                "tunnels": entry.tunnels,
                "upstream_idle": entry.upstream_idle,
                "upstream_active": entry.upstream_active,
            },
            "accepted": entry.accepted,
            "requests": entry.requests,
            "rss": entry.rss,
            "restarts": self._board.restarts(entry.slot),
        }


def digest_of_all(digests: Mapping[str, int]) -> str:
    """Return one digest for those of all directories, in 32 hex digits; empty when nothing is configured."""
    if not any(digests.values()):
        return ""
    whole = blake2b(digest_size=16)
    for name in sorted(digests):
        whole.update(f"{name}\0{digests[name]:032x}".encode())
    return whole.hexdigest()


def _common(states: set[int]) -> str:
    """Name the state of a generation: what the first of its workers has reached that still accept, or are to."""
    for state in (WorkerState.READY, WorkerState.STARTING):
        if state in states:
            return state.name.lower()
    return WorkerState.DRAINING.name.lower()


def _master(record: MasterRecord, now: int) -> dict[str, Any]:
    reload = record.reload
    return {
        "pid": record.pid,
        "age": _seconds(now - record.born_ns),
        "heartbeat_age": _seconds(now - record.heartbeat_ns),
        "generation": record.generation,
        "phase": record.phase,
        "version": record.version,
        "rss": record.rss,
        "reload": None
        if reload is None
        else {
            "ok": reload.ok,
            "reason": reload.reason,
            "generation": reload.generation,
            "age": _seconds(now - reload.at_ns),
        },
    }


def _seconds(nanoseconds: int) -> float:
    """Never less than none: a clock that was read earlier may be behind."""
    return max(0, nanoseconds // 1_000_000) / 1000
