"""What a source of configuration offers.

A provider is made with a ``ConfigStore`` and a callback ``on_progress(revision)``, which it calls whenever the store
has reached a revision: after a complete snapshot, after events, and when it is known that nothing newer exists. A
complete snapshot goes through ``store.receive()``, in steps; the events of whole revisions through ``store.apply``, or
in steps through ``store.applying`` when they are many: always from the event loop, never while a listener runs, and
never while a snapshot is on its way. It decides by itself how to go on after a failure; the store keeps what it has.
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
    incidents: int = 0  # losses noticed and healed since the start


class Provider(Protocol):
    """A source of configuration."""

    def start(self) -> None:
        """Begin to deliver; returns at once."""

    def stop(self) -> None:
        """Deliver nothing more and close every connection."""

    def step_down(self) -> None:
        """Leave to others what they rely on this worker for, since it is going to end; go on to deliver."""

    def stand_again(self) -> None:
        """Undo ``step_down``: it does not end after all."""

    def state(self) -> ProviderState:
        """Tell what it is doing."""
