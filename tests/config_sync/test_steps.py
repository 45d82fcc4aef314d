"""The stepper: jobs in order, others' turns in between, and no job at the cost of another."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from config_sync import steps
from config_sync.steps import Stepper
from tests.fakes.etcd import until


def run(script: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await script()

    asyncio.run(bounded())


def job(name: str, done: list[str], count: int = 3) -> Iterator[None]:
    for at in range(count):
        done.append(f"{name}{at}")
        yield


def test_jobs_are_done_one_after_the_other() -> None:
    async def script() -> None:
        done: list[str] = []
        stepper = Stepper(asyncio.get_running_loop())
        stepper.run(job("a", done), lambda: done.append("a"))
        stepper.run(job("b", done), lambda: done.append("b"))
        assert done == [], "nothing is done before the next round of the loop"
        assert stepper.is_busy()
        await until(lambda: not stepper.is_busy(), "all is done")
        assert done == ["a0", "a1", "a2", "a", "b0", "b1", "b2", "b"]

    run(script)


def test_others_have_their_turn_between_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a budget that any step uses up there is one step in each round of the loop."""

    async def script() -> None:
        clock = iter(range(10_000))
        monkeypatch.setattr(time, "perf_counter", lambda: next(clock) / 2)
        monkeypatch.setattr(steps, "BUDGET", 0.6)  # the clock gains 0.5 whenever it is read
        done: list[str] = []
        loop = asyncio.get_running_loop()

        def other() -> None:
            done.append("-")
            if stepper.is_busy():
                loop.call_soon(other)

        stepper = Stepper(loop)
        stepper.run(job("a", done), lambda: None)
        loop.call_soon(other)
        await until(lambda: not stepper.is_busy(), "all is done")
        assert done[:6] == ["a0", "-", "a1", "-", "a2", "-"]

    run(script)


def test_what_follows_a_job_finds_it_gone_and_comes_behind_those_that_wait() -> None:
    async def script() -> None:
        done: list[str] = []
        busy: list[bool] = []
        stepper = Stepper(asyncio.get_running_loop())

        def then() -> None:
            busy.append(stepper.is_busy())
            stepper.run(job("c", done, 1), lambda: busy.append(stepper.is_busy()))

        stepper.run(job("a", done, 1), then)
        stepper.run(job("b", done, 1), lambda: None)
        await until(lambda: len(busy) == 2, "all is done")
        assert done == ["a0", "b0", "c0"]
        assert busy == [True, False], "b waits while a ends; nothing does while c ends"

    run(script)


def test_a_job_that_fails_is_logged_and_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[None]:
        yield
        raise RuntimeError("broken")

    async def script() -> None:
        done: list[str] = []
        stepper = Stepper(asyncio.get_running_loop())
        stepper.run(broken(), lambda: done.append("then"))
        stepper.run(job("a", done, 1), lambda: None)
        await until(lambda: not stepper.is_busy(), "all is done")
        assert done == ["then", "a0"]

    run(script)
    assert "a long job failed" in caplog.text


@pytest.mark.parametrize("at", ["before", "in a step", "in the last step", "behind a job"])
def test_what_is_stopped_is_left_undone(at: str) -> None:
    async def script() -> None:
        done: list[str] = []
        stepper = Stepper(asyncio.get_running_loop())

        def stopping() -> Iterator[None]:
            done.append("begun")
            if at == "in a step":
                stepper.stop()
            yield
            done.append("over")
            if at == "in the last step":
                stepper.stop()

        stepper.run(stopping(), stepper.stop if at == "behind a job" else lambda: done.append("then"))
        stepper.run(job("a", done, 1), lambda: None)
        if at == "before":
            stepper.stop()
        for _ in range(10):
            await asyncio.sleep(0)
        assert done == {"before": [], "in a step": ["begun"]}.get(at, ["begun", "over"])
        assert not stepper.is_busy()
        stepper.run(job("b", done, 1), lambda: None)
        await until(lambda: done[-1:] == ["b0"], "a stopped stepper takes new jobs")

    run(script)
