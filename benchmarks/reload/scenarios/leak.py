"""Many reloads: do memory, descriptors or old generations grow?"""

from pathlib import Path

from benchmarks.reload.clients import Group
from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import Rig, complains, descriptors, resident, rig, wait_for
from benchmarks.reload.scenarios.driving import MAX_GENERATIONS, drive, settings

MOST_GROWTH = 1.05
SAMPLE_EVERY = 10  # reloads


class Watch:
    """Looks at the processes after each reload."""

    def __init__(self, running: Rig) -> None:
        self._running = running
        self._born: dict[int, int] = {}  # the worker's pid, and the reload it was born in
        self.samples: list[dict[str, int]] = []
        self.most_generations = 0
        self.look(0)

    def look(self, number: int) -> None:
        """Look, after a reload with this number; 0: before the first."""
        workers = self._running.gateway.workers()
        self._born = {pid: self._born.get(pid, number) for pid in workers}
        self.most_generations = max(self.most_generations, len(set(self._born.values())) - 1)
        if number <= 1 or number % SAMPLE_EVERY == 0:
            self.samples.append(self._sample(number))

    def _sample(self, number: int) -> dict[str, int]:
        master = self._running.master
        newest = [pid for pid, born in self._born.items() if born == max(self._born.values())]
        return {
            "reloads": number,
            "master": resident(master),
            "worker": max(resident(pid) for pid in newest),
            "descriptors": len(descriptors(master)),
        }


def run(directory: Path, limits: Limits, mode: str = "slot", workers: int = 2, grace: float = 0.2) -> Outcome:
    """Reload under a light load with WebSockets, which keep old generations alive."""
    with rig(directory, **settings(mode, workers, grace)) as running:
        wait_for(lambda: "a template for workers" in running.gateway.log(), "a template")
        watch = Watch(running)

        def step(number: int) -> None:
            running.reload()
            watch.look(number + 1)

        load = Group("all", running.gateway.port, new=1, kept=4, websockets=10)
        outcome = drive(running, limits, load, step)
        ended = complains(lambda: len(running.gateway.workers()) == workers, "the old generations have ended")
        first = watch.samples[0]["descriptors"]
        closed = complains(
            lambda: len(descriptors(running.master)) <= first, f"the master has {first} descriptors again"
        )
        outcome.complaints += [*ended, *closed]
    outcome.complaints += grown(watch.samples)
    if watch.most_generations > MAX_GENERATIONS:
        outcome.complaints.append(f"{watch.most_generations} old generations lived at once")
    outcome.figures |= {"samples": watch.samples, "most_old_generations": watch.most_generations}
    return outcome


def grown(samples: list[dict[str, int]]) -> list[str]:
    """Complain when the last sample is more than 5 % above the first."""
    first, last = samples[0], samples[-1]
    return [
        f"RSS of the {who} after {last['reloads']} reloads: {last[who]} bytes, {first[who]} at the start"
        for who in ("master", "worker")
        if last[who] > MOST_GROWTH * first[who]
    ]
