"""Whatever happens in whatever order: a rollout ends, and no slot is ever left without a worker by it."""

from dataclasses import dataclass, field
from enum import Enum

from hypothesis import given
from hypothesis import strategies as st

from worker.supervisor.orders import (
    Abandon,
    Check,
    Drain,
    Finish,
    Fork,
    Keep,
    Order,
    Pause,
    Plan,
    Refork,
    Resume,
    Retire,
)
from worker.supervisor.rollout import Rollout, Stage


class Life(Enum):
    STARTING = 1
    SERVING = 2
    PAUSED = 3
    DRAINING = 4
    RESUMING = 5
    DEAD = 6


@dataclass
class Place:
    old: Life
    new: Life = Life.DEAD
    leaving: list[Life] = field(default_factory=list)
    is_given_up: bool = False

    def serves(self) -> bool:
        return Life.SERVING in (self.old, self.new)


class World:
    """Workers as the rollout wants them; they come up and die as the test wants."""

    def __init__(self, plan: Plan) -> None:
        self.now = 0.0
        self.plan = plan
        self.rollout = Rollout(plan)
        self.places = {slot: Place(Life.SERVING) for slot in (*plan.replace, *plan.retire)}
        self.places |= {slot: Place(Life.DEAD) for slot in plan.grow}
        self.result: Finish | None = None
        self.do(self.rollout.begin(self.now))

    def do(self, orders: list[Order]) -> None:
        for order in orders:
            assert self.result is None, "nothing comes after the end"
            if isinstance(order, Check):
                continue
            if isinstance(order, Finish):
                self.result = order
                continue
            place = self.places[order.slot]
            served = place.serves()
            self.carry_out(order, place)
            assert place.is_given_up or place.serves() >= served, f"{order} leaves a slot alone"
        if self.result is None:
            assert self.rollout.due is None or self.rollout.due > self.now, "what is due is done"

    def carry_out(self, order: Order, place: Place) -> None:
        if isinstance(order, Fork):
            assert place.new is Life.DEAD
            place.new = Life.STARTING
            if place.old is Life.DEAD and order.slot not in self.plan.grow:
                self.do(self.rollout.ended(order.slot, self.now))
        elif isinstance(order, Pause):
            assert place.old is Life.SERVING
            place.old = Life.PAUSED
        elif isinstance(order, Drain):
            assert place.old in (Life.SERVING, Life.PAUSED)
            place.old = Life.DRAINING
        elif isinstance(order, Resume):
            assert place.old in (Life.PAUSED, Life.DRAINING)
            place.old = Life.RESUMING
        elif isinstance(order, Refork):
            place.old = Life.STARTING  # who was there before drains from now on
        elif isinstance(order, Abandon):
            assert place.new is not Life.DEAD
            place.new = Life.DRAINING
        elif isinstance(order, Keep):
            assert place.new is Life.SERVING
            place.old, place.new = place.new, Life.DEAD
        elif isinstance(order, Retire):
            place.is_given_up = True

    # what may happen

    def new_moves(self, slot: int, dies: bool) -> None:
        place = self.places[slot]
        if place.new is Life.DRAINING or place.is_given_up:
            place.new = Life.DEAD
        elif dies and place.new is not Life.DEAD:
            place.new = Life.DEAD
            self.do(self.rollout.died(slot, "died", self.now))
        elif place.new is Life.STARTING:
            place.new = Life.SERVING
            self.do(self.rollout.ready(slot, self.now))

    def old_moves(self, slot: int, dies: bool) -> None:
        place = self.places[slot]
        if place.is_given_up or slot in self.plan.retire:
            return
        if place.old is Life.DEAD:
            if place.new is Life.DEAD and slot not in self.plan.grow:
                place.old = Life.SERVING  # every slot without a worker is given one
        elif dies or place.old is Life.DRAINING:
            place.old = Life.DEAD
            self.do(self.rollout.ended(slot, self.now))
        elif place.old in (Life.RESUMING, Life.STARTING):
            place.old = Life.SERVING
            self.do(self.rollout.returned(slot, self.now))

    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.rollout.tick(self.now))


def settle(world: World) -> None:
    """Let nobody die any more, no predecessor end, and nobody look before something is due."""
    for _ in range(60):
        if world.result is None and world.rollout.stage is Stage.CHECKING:
            world.do(world.rollout.checked("", world.now))
        for slot, place in world.places.items():
            world.new_moves(slot, dies=False)
            if place.old is not Life.DRAINING:
                world.old_moves(slot, dies=False)
        if world.result is None and (due := world.rollout.due) is not None:
            world.time_passes(due - world.now)


plans = st.builds(
    lambda replace, grow, retire, mode, check, grace, drain_wait: Plan(
        tuple(range(replace)),
        tuple(range(replace, replace + grow)),
        () if grow else tuple(range(replace, replace + retire)),
        mode,
        check,
        grace,
        drain_wait,
        60.0,
        30.0,
    ),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["slot", "all"]),
    st.booleans(),
    st.sampled_from([0.0, 2.0]),
    st.sampled_from([0.0, 5.0]),
)
happenings = st.lists(
    st.tuples(st.sampled_from(["new", "old", "time", "checked", "time"]), st.integers(0, 4), st.integers(0, 9)),
    max_size=60,
)


@given(plans, happenings)
def test_a_rollout_ends_and_every_slot_has_one_serving_worker(plan: Plan, events: list[tuple[str, int, int]]) -> None:
    world = World(plan)
    for what, slot, chance in events:
        if world.result is not None:
            break
        if what == "checked":
            world.do(world.rollout.checked("" if chance else "broken", world.now))
        elif what == "time":
            world.time_passes((0.1, 1.0, 5.0, 70.0)[chance % 4])
        elif slot in world.places:
            (world.new_moves if what == "new" else world.old_moves)(slot, dies=chance < 3)
    settle(world)
    assert world.result is not None, world.rollout.stage
    for slot, place in world.places.items():
        if slot in plan.retire:
            assert place.is_given_up == world.result.ok
        elif slot in plan.grow:
            assert place.is_given_up or place.serves() == world.result.ok
        else:
            assert [place.old, place.new].count(Life.SERVING) == 1
