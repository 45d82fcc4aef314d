"""The rings in which workers hand to the prober what requests have shown.

A ring has one writer, the worker, and one reader, the prober of the moment; where each has come to stands in the ring
itself, so it goes on when either is replaced. An entry is one word that carries the lap it was written in: it is taken
only when it is whole and in its place. It also carries the generation of the slot, so that a report about a target
which is gone meanwhile does not count for the next one there.
"""

from collections.abc import Iterator
from typing import NamedTuple

from worker.upstream.health.machine import MAX_COUNT, Report

CAPACITY = 254  # entries
RING_WORDS = 2 + CAPACITY
_HEAD, _TAIL, _ENTRIES = range(3)
_LAP_MASK = 0xFFFFF


class Run(NamedTuple):
    """The same report, so often in a row, about the target in a slot."""

    slot: int
    generation: int
    report: Report
    length: int


class ReportRing:
    """The ring of one worker."""

    __slots__ = ("_words",)

    def __init__(self, words: "memoryview[int]") -> None:
        self._words = words

    def put(self, run: Run) -> bool:
        """Write a run of at most ``MAX_COUNT`` reports; False when the ring is full. Only for its worker."""
        words = self._words
        head = words[_HEAD]
        if head - words[_TAIL] >= CAPACITY:
            return False
        slot, generation, report, length = run
        word = slot | generation << 16 | report << 28 | min(length, MAX_COUNT) << 30
        words[_ENTRIES + head % CAPACITY] = word | _lap(head) << 38
        words[_HEAD] = head + 1
        return True

    def take(self) -> Iterator[Run]:
        """Take out what has been written since the last time, in order. Only for the prober."""
        words = self._words
        head = words[_HEAD]
        # A prober that hung and wakes up may have put the tail back: what is older than a lap is gone.
        for at in range(max(words[_TAIL], head - CAPACITY), head):
            word = words[_ENTRIES + at % CAPACITY]
            if word >> 38 != _lap(at):
                return
            words[_TAIL] = at + 1
            yield Run(word & 0xFFFF, word >> 16 & 0xFFF, Report(word >> 28 & 3), word >> 30 & 0xFF)


def _lap(position: int) -> int:
    return (position // CAPACITY + 1) & _LAP_MASK
