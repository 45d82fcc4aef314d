"""What a worker tells of its configuration: how far it is, what it holds, and what went wrong."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Held:
    """A reload that the guard holds back."""

    removes: int  # routes that would go
    of: int  # routes there are
    since: float  # of the monotonic clock


@dataclass(frozen=True)
class SyncStatus:
    """The state of one worker's configuration."""

    revision: int  # everything up to here has been applied
    changed: int  # the revision of the last change of content
    digests: Mapping[str, int]  # by directory; see config_sync.digest
    counts: Mapping[str, int]  # records by directory
    last_event: float  # seconds since the epoch; 0: none yet
    last_error: str
    stage: str  # what the provider is doing
    endpoint: str
    incidents: int  # differences found and healed since the start
    rejected: int  # values that are not valid now
    stale: bool  # loaded from disk and not yet compared with the store
    held: Held | None
