"""One portion of a long answer at a time, whoever asks."""

import asyncio
from collections.abc import Callable
from itertools import count

from worker.api.turns import Turns


def test_all_have_their_turns_one_after_the_other_and_the_loop_goes_round_between_them() -> None:
    told: list[str] = []

    async def main() -> None:
        loop, ticks = asyncio.get_running_loop(), count()
        turns = Turns(loop, lambda: float(next(ticks)))  # every portion takes long

        def stepping(name: str, left: int) -> Callable[[], None]:
            def step() -> None:
                told.append(name)
                loop.call_soon(told.append, "-")
                if left > 1:
                    turns.call(stepping(name, left - 1))

            return step

        turns.call(stepping("a", 2))
        turns.call(stepping("b", 2))
        turns.call(lambda: told.append("never")).cancel()
        while len(told) < 8:  # noqa: ASYNC110 - others write it  # noqa: ASYNC110 - the condition is told by callbacks
            await asyncio.sleep(0.001)
        turns.call(stepping("c", 1))
        while len(told) < 10:  # noqa: ASYNC110 - others write it  # noqa: ASYNC110 - the condition is told by callbacks
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), 10))
    assert "".join(told) == "a-b-a-b-c-"


def test_short_portions_are_made_together_and_one_that_fails_keeps_nobody_waiting() -> None:
    told: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns(loop, lambda: 0.0)
        turns.call(lambda: told.append("a"))
        turns.call(lambda: told.remove("none"))
        turns.call(lambda: told.append("b"))
        loop.call_soon(told.append, "-")
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert "".join(told) == "ab-"
