"""Who accepts for a slot that has nobody: after a death, until the next worker is ready, and when it is given up."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker.supervisor.child import Child, Slot


@dataclass(frozen=True)
class Give:
    """Let a worker accept for a slot."""

    slot: Slot
    child: Child


@dataclass(frozen=True)
class Take:
    """Let a worker accept no longer for a slot."""

    slot: Slot
    child: Child


def adoptions(slots: Sequence[Slot], orphaned: Iterable[Slot]) -> list[Give | Take]:
    """Decide who is to accept for whom from now on.

    A slot that is served by its own worker, or whose adopter no longer accepts, is taken from the adopter; one that is
    not, goes to the worker with the fewest of them.
    """
    moves: list[Give | Take] = []
    workers = [child for slot in slots for child in slot.children()]
    loads = {child: len(child.adopted) for child in workers if child.serves}
    for slot in (*slots, *orphaned):
        adopters = [child for child in workers if slot.number in child.adopted]
        serving = [child for child in adopters if child.serves]
        is_served = slot.is_served()
        if not is_served and not serving and slot.listeners and loads:
            chosen = min(loads, key=lambda child: (loads[child], child.pid))
            loads[chosen] += 1
            moves.append(Give(slot, chosen))
        moves += [Take(slot, child) for child in adopters if is_served or not child.serves]
    return moves
