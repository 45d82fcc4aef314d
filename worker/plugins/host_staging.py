"""HostStaging: the changes of a snapshot, as far as they concern the plugins of a worker."""

from collections.abc import Callable, Iterator, Sequence

from config_sync.cache import Change
from config_sync.secrets import Place
from worker.plugins.references import Referring, places_of
from worker.plugins.troubles import Troubles


class HostStaging:
    """The changes of a snapshot: routes that are not compiled need not be told."""

    def __init__(
        self,
        referring: Referring,
        troubles: Troubles,
        concerns: Callable[[Change], bool],
        take: Callable[[Sequence[Change], bool], None],
    ) -> None:
        """Collect what ``concerns`` says; ``take`` gets it, and whether there are consumers in the snapshot."""
        self._referring = referring
        self._troubles = troubles
        self._concerns = concerns
        self._take = take
        self._changes: list[Change] = []
        self._unknown: dict[str, tuple[str, ...]] = {}
        self._has_consumers = False
        self._places: dict[str, frozenset[Place]] = {}

    def add(self, changes: Sequence[Change]) -> None:
        """Collect these, too."""
        self._unknown.update(self._troubles.find_unknown(changes))
        for change in changes:
            key = f"{change.directory}/{change.id}"
            places = places_of(change.directory, change.new)
            if places or self._referring.has(key):
                self._places[key] = places
            if change.directory == "consumers":
                self._has_consumers = True
            if self._concerns(change):
                self._changes.append(change)

    def finish(self) -> Iterator[None]:
        """Have nothing left to prepare."""
        return iter(())

    def commit(self) -> None:
        """Let all that was collected be so."""
        for key, places in self._places.items():
            self._referring.note(key, places)
        self._troubles.note_unknown(self._unknown)
        self._take(self._changes, self._has_consumers)

    def clean(self) -> Iterator[None]:
        """Have nothing left to throw away."""
        return iter(())

    def drop(self) -> None:
        """Forget what was collected."""
        self._changes = []
        self._unknown = {}
