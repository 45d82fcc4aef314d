"""What systemd is told of the master: when, and in which words (sd_notify(3)).

``Notifier`` decides, from one look at the master after the other; it sends nothing itself.
"""

import math
from dataclasses import dataclass

from worker.supervisor.signals import Phase

STATUS_INTERVAL = 1.0  # seconds between two texts
USUAL = 5.0  # seconds that starting, reloading or stopping may take before systemd is asked for more
EXTENSION = 15.0  # seconds asked for, again and again
SHORTEST_SILENCE = 3.0  # seconds; workers beat every second
MAX_REASON = 300  # characters of why a reload failed
TRANSIENT = (Phase.STARTING, Phase.RELOADING, Phase.STOPPING)


@dataclass(frozen=True)
class View:
    """The master at one moment; a slot counts as ready when its worker is."""

    phase: Phase
    pid: int
    generation: int
    slots: int
    ready: int
    beating: int  # of the ready ones, those whose event loop runs
    revision: int
    reloads: int = 0  # begun since the start
    failure: str = ""  # of the last reload; empty: it succeeded
    until: float = math.inf  # when the phase is over at the latest, on the monotonic clock
    is_resting: bool = False  # its workers were drained on purpose

    @property
    def has_quorum(self) -> bool:
        """Tell whether more than half of the slots serve."""
        return 2 * self.beating > self.slots


def longest_silence(watchdog: float | None, heartbeat_timeout: float) -> float:
    """Return after how many seconds without a heartbeat a worker is not counted as serving any more."""
    return min(heartbeat_timeout, max(SHORTEST_SILENCE, watchdog / 2)) if watchdog else heartbeat_timeout


class Notifier:
    """Decides what systemd is told."""

    def __init__(self, watchdog: float | None) -> None:
        """Begin before anything was told; ``watchdog`` in seconds, None: not watched."""
        self._pat_every = watchdog / 2 if watchdog else math.inf
        self._pat_at = -math.inf if watchdog else math.inf
        self._phase: Phase | None = None
        self._since_told = 0.0  # when the phase began, or more time was asked for in it
        self._reloads = 0
        self._is_ready = False  # as far as systemd knows
        self._status = ""
        self._told_status = -math.inf

    def lines(self, now: float, view: View) -> list[str]:
        """Return the messages to send at a moment of the monotonic clock, each of one or more lines."""
        states = self._states(now, view)
        status = _status(view)
        if status != self._status and (states or now - self._told_status >= STATUS_INTERVAL):
            self._status, self._told_status = status, now
            # In the same message: whoever sees the state sees the text that belongs to it.
            states = [*states[:-1], f"{states[-1]}\nSTATUS={status}"] if states else [f"STATUS={status}"]
        return [*states, *self._extension(now, view), *self._pat(now, view)]

    def due(self, now: float) -> float:
        """Return in how many seconds the watchdog wants to be patted; infinite when there is none."""
        return max(0.0, self._pat_at - now)

    def say_again(self) -> None:
        """Tell the whole of it with the next look: what was said last was another's, or was not sent."""
        self._phase = None
        self._status = ""
        if self._pat_at < math.inf:
            self._pat_at = -math.inf

    def _states(self, now: float, view: View) -> list[str]:
        before = self._phase
        if view.phase is not before:
            self._phase, self._since_told = view.phase, now
        if view.phase is Phase.STARTING:
            return []
        if view.phase is Phase.STOPPING:
            return [] if before is Phase.STOPPING else ["STOPPING=1"]
        states = []
        ready = f"READY=1\nMAINPID={view.pid}"
        if before in (None, Phase.STARTING):
            self._is_ready = True
            states.append(ready)
        # A reload may be over before anybody looked; systemd waits for its begin all the same.
        if view.reloads > self._reloads or (view.phase is Phase.RELOADING and self._is_ready):
            self._reloads, self._is_ready = view.reloads, False
            states.append(f"RELOADING=1\nMONOTONIC_USEC={int(now * 1e6)}")
        if view.phase is Phase.RUNNING and not self._is_ready:
            self._is_ready = True
            states.append(ready)
        return states

    def _extension(self, now: float, view: View) -> list[str]:
        """Ask for more time; it moves the watchdog as well, so a reload must have earned it."""
        if view.phase not in TRANSIENT or now - self._since_told < USUAL or now >= view.until:
            return []
        if view.phase is Phase.RELOADING and not view.has_quorum:
            return []
        self._since_told = now
        return [f"EXTEND_TIMEOUT_USEC={int(min(EXTENSION, view.until - now + USUAL) * 1e6)}"]

    def _pat(self, now: float, view: View) -> list[str]:
        if self.due(now) > 0:
            return []
        serves = view.phase in (Phase.STARTING, Phase.STOPPING) or view.is_resting or view.has_quorum
        if not serves:
            return []
        self._pat_at = now + self._pat_every
        return ["WATCHDOG=1"]


def _status(view: View) -> str:
    text = f"{view.phase.value}, generation {view.generation}, {view.ready} of {view.slots} workers ready"
    if view.is_resting:
        text = f"resting, generation {view.generation}, its workers are told to drain"
    text += f", revision {view.revision}"
    if view.failure:
        text += f"; the last reload failed: {' '.join(view.failure.split())[:MAX_REASON]}"
    return text
