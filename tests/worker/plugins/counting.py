"""Counters whose time is moved by hand."""

from worker.plugins.testing import PluginKit
from worker.shared_state.memory import SharedState


class Clock:
    """What tells counters the time; ``seconds`` begin somewhere."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> int:
        return int(self.seconds * 1e9)


class Counting:
    """Counters that several kits share, each of them a worker."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.state = SharedState(clock=self.clock)

    def begin(self, kit: PluginKit, number: int = 0) -> PluginKit:
        """Let the plugins of a kit, which has not had a request yet, count here."""
        self.state.open(number)
        services = kit.context.plugins.services
        services.counters, services.notes = self.state.counters(number), self.state.notes
        return kit
