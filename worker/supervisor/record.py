"""The record that the master publishes in the scoreboard: what it alone knows, for workers to show."""

import os
import time

import msgspec

from worker.memory import resident_memory
from worker.scoreboard import Scoreboard

MAX_REASON_CHARS = 800  # four bytes each at most, so that a record has room for it


class ReloadOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the last reload ended; ``at_ns`` of the monotonic clock."""

    ok: bool = False
    reason: str = ""
    generation: int = 0  # that serves since
    at_ns: int = 0


class MasterRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The master; times are of the monotonic clock, ``rss`` is in bytes.

    Whoever reads it fills in what it lacks: a reload brings workers with newer code than the master's.
    """

    pid: int = 0
    generation: int = 0
    phase: str = ""
    version: str = ""
    born_ns: int = 0
    heartbeat_ns: int = 0
    rss: int = 0
    reload: ReloadOutcome | None = None
    reloads: int = 0  # that went well …
    failed_reloads: int = 0  # … and the others


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MasterRecord).decode


def read_record(board: Scoreboard) -> MasterRecord:
    """Return what the master has published last; one that knows nothing when that is nothing, or strange."""
    record = board.published_by_master()
    try:
        return _decode(record) if record else MasterRecord()
    except msgspec.DecodeError:
        return MasterRecord()


class RecordPublisher:
    """Keeps the record up to date; the master's."""

    def __init__(self, board: Scoreboard, version: str) -> None:
        self._board = board
        self._version = version
        self._born_ns = time.monotonic_ns()
        self._reload: ReloadOutcome | None = None
        self._reloads = {True: 0, False: 0}  # by whether they went well

    def reloaded(self, ok: bool, reason: str, generation: int) -> None:
        """Note how a reload has ended; told with the next record."""
        self._reloads[ok] += 1
        self._reload = ReloadOutcome(ok, reason[:MAX_REASON_CHARS], generation, time.monotonic_ns())

    def publish(self, phase: str, generation: int) -> None:
        """Publish; some ten microseconds."""
        self._board.publish_master(
            _encode(
                MasterRecord(
                    os.getpid(),
                    generation,
                    phase,
                    self._version,
                    self._born_ns,
                    time.monotonic_ns(),
                    resident_memory(),
                    self._reload,
                    self._reloads[True],
                    self._reloads[False],
                )
            )
        )
