"""The record that a worker publishes in the scoreboard: its SyncStatus.

It names its fields, and whoever reads it fills in those it lacks: while a reload drains, workers of two versions of
this code read each other's. Its size does not depend on how many objects there are.
"""

from collections.abc import Callable

import msgspec

from config_sync.cache import ConfigStore
from config_sync.provider import ProviderState
from config_sync.status import Held, SyncStatus
from worker.scoreboard import Entry

MAX_ERROR_CHARS = 300
MAX_NAME_CHARS = 80  # four bytes each at most, so that all strings and 24 directories fit


class _Record(msgspec.Struct, omit_defaults=True):
    revision: int = 0
    changed: int = 0
    digests: dict[str, bytes] = {}  # of the directories that are not empty
    counts: dict[str, int] = {}
    last_event: float = 0.0
    last_error: str = ""
    stage: str = ""
    endpoint: str = ""
    incidents: int = 0
    rejected: int = 0
    stale: bool = False
    held: Held | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


def encode_status(status: SyncStatus) -> bytes:
    """Write a status as a record; long strings are cut."""
    return _encode(
        _Record(
            status.revision,
            status.changed,
            {name: digest.to_bytes(16, "big") for name, digest in status.digests.items() if digest},
            {name: count for name, count in status.counts.items() if count},
            status.last_event,
            status.last_error[:MAX_ERROR_CHARS],
            status.stage[:MAX_NAME_CHARS],
            status.endpoint[:MAX_NAME_CHARS],
            status.incidents,
            status.rejected,
            status.stale,
            status.held,
        )
    )


def decode_status(record: bytes) -> SyncStatus:
    """Read a record; an empty or strange one is a status that knows nothing."""
    try:
        read = _decode(record) if record else _Record()
    except msgspec.DecodeError:
        read = _Record()
    digests = {name: int.from_bytes(digest, "big") for name, digest in read.digests.items()}
    return SyncStatus(
        read.revision,
        read.changed,
        digests,
        read.counts,
        read.last_event,
        read.last_error,
        read.stage,
        read.endpoint,
        read.incidents,
        read.rejected,
        read.stale,
        read.held,
    )


class Publisher:
    """Keeps a worker's record equal to its configuration."""

    def __init__(self, entry: Entry, store: ConfigStore, provider_state: Callable[[], ProviderState]) -> None:
        self._entry = entry
        self._store = store
        self._provider_state = provider_state

    def publish(self) -> None:
        """Write the record and the revision; some ten microseconds, however many objects there are.

        The revision is what others may rely on: none while nobody knows how it relates to those of the store.
        """
        status = self.status()
        self._entry.publish(encode_status(status))
        self._entry.revision = 0 if status.stale or status.held is not None else status.revision

    def status(self) -> SyncStatus:
        """Tell what is live in this worker now."""
        store, provider = self._store, self._provider_state()
        return SyncStatus(
            store.revision,
            store.changed,
            store.digests,
            {name: len(cache.items) for name, cache in store.caches.items()},
            store.last_event,
            provider.last_error,
            provider.stage,
            provider.endpoint,
            provider.incidents,
            len(store.rejected),
            store.stale,
            store.held,
        )
