"""What a source of configuration offers.

A provider is made with a ``ConfigStore`` and two callbacks: ``on_synced(revision)`` once the first complete
snapshot has been applied, and ``on_progress(revision)`` whenever it knows the store to be up to date at a
higher revision. It calls ``store.replace`` with a complete snapshot, if that comes in parts after
``store.prepare`` with each of them, and ``store.apply`` with the events of whole revisions, always from the
event loop and never while a listener runs. It decides by itself how to go on after a failure; the store keeps
what it has meanwhile.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class ProviderState:
    """What a provider is doing, for people to read."""

    stage: str  # for etcd the name of a watch state
    endpoint: str
    revision: int  # everything up to here has been applied
    last_error: str  # the last failure, empty when there was none since the last success


class Provider(Protocol):
    """A source of configuration."""

    def start(self) -> None:
        """Begin to deliver; returns at once."""

    def stop(self) -> None:
        """Deliver nothing more and close every connection."""

    def state(self) -> ProviderState:
        """Tell what it is doing."""
