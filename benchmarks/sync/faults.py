"""What is done to the cluster and to the wires that lead to it, and how soon everybody must be well again."""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.fakes.cluster import Cluster, Member
from tests.fakes.wire import Wire

_LONG = (0.5, 8.0)  # seconds; members notice the loss of a quorum after 3.5 to 4.5

Undo = Callable[[], Awaitable[None]]


@dataclass
class Ground:
    """What faults are done to; ``wires`` in the order of the cluster's members."""

    cluster: Cluster
    wires: Sequence[Wire]
    chance: random.Random
    workers: Callable[[], set[int]]  # pids of the gateway's workers

    def used_wire(self) -> Wire:
        """Choose a wire; one that carries connections is more likely."""
        return self.chance.choices(self.wires, [1 + 4 * wire.open for wire in self.wires])[0]

    def used_member(self) -> Member:
        """Choose a member in the same way."""
        return self.cluster.members[self.wires.index(self.used_wire())]


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    ``bound`` is in seconds: the time until everybody has a write made after the fault has begun, while it lasts;
    when ``total``, until they have one made after its end. Nobody can do better than notice a silent member when
    its poll is over, so that bound is longer.
    """

    name: str
    inject: Callable[[Ground], Awaitable[Undo]]
    bound: float
    total: bool = False
    hold: tuple[float, float] = (0.5, 3.0)  # lasts at least a time between these, in seconds


async def _cut(ground: Ground) -> Undo:
    wire = ground.used_wire()
    wire.cut()
    return _doing(wire.mend)


async def _cut_all(ground: Ground) -> Undo:
    for wire in ground.wires:
        wire.cut()
    return _doing(*(wire.mend for wire in ground.wires))


async def _stall(ground: Ground) -> Undo:
    wire = ground.used_wire()
    wire.stall()
    return _doing(wire.mend)


async def _stall_all(ground: Ground) -> Undo:
    for wire in ground.wires:
        wire.stall()
    return _doing(*(wire.mend for wire in ground.wires))


async def _slow(ground: Ground) -> Undo:
    wire = ground.used_wire()
    wire.rate = 500_000.0

    async def undo() -> None:
        wire.rate = 0.0

    return undo


async def _kill_member(ground: Ground) -> Undo:
    member = ground.used_member()
    await asyncio.to_thread(member.kill)

    async def undo() -> None:
        await asyncio.to_thread(ground.cluster.start_member, member)

    return undo


async def _stop_member(ground: Ground) -> Undo:
    member = ground.used_member()
    member.stop()
    return _doing(member.cont)


async def _stop_leader(ground: Ground) -> Undo:
    leader = await asyncio.to_thread(ground.cluster.wait_for_leader)
    leader.stop()
    return _doing(leader.cont)


async def _stop_quorum(ground: Ground) -> Undo:
    members = ground.chance.sample(ground.cluster.members, 2)
    for member in members:
        member.stop()
    return _doing(*(member.cont for member in members))


async def _kill_all(ground: Ground) -> Undo:
    await asyncio.to_thread(ground.cluster.kill)

    async def undo() -> None:
        for member in ground.cluster.members:
            await asyncio.to_thread(ground.cluster.start_member, member)

    return undo


async def _compact(ground: Ground) -> Undo:
    await asyncio.to_thread(_compact_now, ground.cluster)
    return _doing()


async def _compact_behind(ground: Ground) -> Undo:
    for wire in ground.wires:
        wire.cut()
    await asyncio.sleep(ground.chance.uniform(0.2, 1.0))
    await asyncio.to_thread(_compact_now, ground.cluster)
    return _doing(*(wire.mend for wire in ground.wires))


async def _revoke_tokens(ground: Ground) -> Undo:
    await asyncio.to_thread(ground.cluster.revoke_tokens)
    # A watch that is open needs no token; the next one does.
    for wire in ground.wires:
        wire.cut()
        wire.mend()
    return _doing()


async def _kill_worker(ground: Ground) -> Undo:
    workers = sorted(ground.workers())
    if workers:
        os.kill(ground.chance.choice(workers), signal.SIGKILL)
    return _doing()


def _compact_now(cluster: Cluster) -> None:
    cluster.compact(cluster.revision())


def _doing(*steps: Callable[[], None]) -> Undo:
    async def undo() -> None:
        for step in steps:
            step()

    return undo


def faults(poll: float) -> list[Fault]:
    """Return every kind, for clients whose polls last ``poll`` seconds.

    A silent member is given up 5 s after the end of its poll. On the way to another one a client may meet up to
    two more waits: 5 s for a "created" that does not come, and a pause of at most 1.5 s.
    """
    silent = poll + 5.0 + 5.0 + 1.5
    return [
        Fault("cut", _cut, 3.0),
        Fault("cut all", _cut_all, 3.0, total=True),
        Fault("stall", _stall, silent),
        Fault("stall all", _stall_all, 8.0, total=True, hold=_LONG),
        Fault("slow", _slow, 3.0),
        Fault("kill member", _kill_member, 6.0),
        Fault("stop member", _stop_member, silent),
        Fault("stop leader", _stop_leader, silent),
        Fault("stop quorum", _stop_quorum, 8.0, total=True, hold=_LONG),
        Fault("kill all", _kill_all, 8.0, total=True, hold=_LONG),
        Fault("compact", _compact, 2.0),
        Fault("compact behind", _compact_behind, 4.0, total=True),
        Fault("revoke tokens", _revoke_tokens, 3.0),
        Fault("kill worker", _kill_worker, 6.0),
    ]
