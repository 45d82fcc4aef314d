"""Followers: a store kept equal to etcd by the provider that workers use, in this process."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from benchmarks.sync.groups import Groups, Place, half_seen
from config_sync.cache import Change, ConfigStore
from config_sync.etcd.sync import EtcdProvider
from config_sync.settings import EtcdSettings


class Follower:
    """A follower that looks for half transactions after every change."""

    def __init__(self, name: str, settings: EtcdSettings, groups: Groups) -> None:
        self.name = name
        self.store = ConfigStore()
        self.revision = 0
        self.batches = 0  # times that listeners were told of changes
        self.halves: list[Mapping[str, str]] = []
        self._groups = groups
        self._waiting: list[tuple[int, asyncio.Future[float]]] = []
        self._loop = asyncio.get_running_loop()
        self.store.subscribe(self._changed)
        self.provider = EtcdProvider(settings, self.store, self._loop, self._progressed)

    async def reach(self, revision: int) -> float:
        """Wait until everything up to a revision has been applied; returns when that was, of the loop's clock."""
        if self.revision >= revision:
            return self._loop.time()
        reached: asyncio.Future[float] = self._loop.create_future()
        self._waiting.append((revision, reached))
        return await reached

    def records(self) -> dict[str, tuple[int, bytes]]:
        """Return modification revision and value of everything it has, by key below the prefix."""
        return {
            f"{directory}/{id_}": (item.mod_revision, item.raw)
            for directory, cache in self.store.caches.items()
            for id_, item in cache.items.items()
        }

    def _progressed(self, revision: int) -> None:
        self.revision = revision
        for waiting in [one for one in self._waiting if one[0] <= revision]:
            self._waiting.remove(waiting)
            if not waiting[1].done():
                waiting[1].set_result(self._loop.time())

    def _changed(self, changes: Sequence[Change]) -> None:
        self.batches += 1
        places = {(change.directory, change.id) for change in changes}
        self.halves += half_seen(places, self._groups, self._raw)

    def _raw(self, place: Place) -> bytes | None:
        item = self.store.caches[place.directory].items.get(place.id)
        return None if item is None else item.raw


def digests_of(
    records: Mapping[str, tuple[int, bytes]], record_hash: Callable[[str, int, bytes], int]
) -> dict[str, int]:
    """Compute the digest of each directory that is not empty."""
    digests: dict[str, int] = {}
    for key, (revision, value) in records.items():
        directory = key.partition("/")[0]
        digests[directory] = (digests.get(directory, 0) + record_hash(key, revision, value)) % (1 << 128)
    return digests
