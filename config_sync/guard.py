"""The guard: an emptied or replaced store must not empty the gateway.

It is asked before a complete snapshot takes the place of what is live. One that removes more than a share of the
routes is held back until somebody confirms it, or until a configured time has passed. Deletes that arrive as
events are meant, and never come here.
"""

from collections.abc import Callable

from config_sync.settings import GuardSettings
from config_sync.status import Held


class Guard:
    """Decides about one store's snapshots."""

    def __init__(
        self,
        settings: GuardSettings,
        now: Callable[[], float],
        confirmed_at: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Set up a guard; ``confirmed_at`` tells when somebody has last confirmed, by the clock of ``now``."""
        self._settings = settings
        self._now = now
        self._confirmed_at = confirmed_at
        self._since: float | None = None
        self._removes = 0  # by the snapshot that was last held back

    def held(self, removes: int, of: int) -> Held | None:
        """Tell whether a snapshot that removes so many routes is held back; None lets it pass."""
        if of < self._settings.min_routes or removes <= self._settings.max_removed_share * of:
            self._since = None
            return None
        now = self._now()
        if self._since is None:
            self._since = now
        elif self._confirmed_at() > self._since and removes > self._removes:
            self._since = now  # more would go than anybody can have meant
        waited = now - self._since
        if self._confirmed_at() > self._since or (self._settings.hold and waited >= self._settings.hold):
            self._since = None
            return None
        self._removes = removes
        return Held(removes, of, self._since)
