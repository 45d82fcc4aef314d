"""What is kept of secrets: fetched once, again when it is time, and told of when it changes."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from config_sync import schema
from config_sync.cache import Change
from config_sync.errors import ConfigError
from config_sync.secrets import Place, SecretReference, parse
from worker.secrets import cache as module
from worker.secrets.cache import SecretCache
from worker.secrets.source import SecretFailed, SecretNotThere, SecretSource

JACK = "$secret://vault/1/team/jack/key"
PLACE = ("vault", "1", "team/jack")


class Source:
    """Has what it is told to have."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {"team/jack": {"key": "one", "other": "two"}}
        self.asked: list[str] = []
        self.fails: Exception | None = None
        self.lets = asyncio.Event()
        self.lets.set()
        self.under_way = 0
        self.most = 0

    async def fetch(self, name: str) -> dict[str, Any] | str:
        self.asked.append(name)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await self.lets.wait()
        self.under_way -= 1
        if self.fails is not None:
            raise self.fails
        if name not in self.values:
            raise SecretNotThere("nothing")
        value: dict[str, Any] | str = self.values[name]
        return value


class User:
    """Refers to what it is told, and keeps what it hears."""

    def __init__(self) -> None:
        self.uses = True
        self.heard: list[Place] = []

    def uses_secret(self, place: Place) -> bool:
        return self.uses

    def secret_changed(self, place: Place) -> Iterator[None]:
        self.heard.append(place)
        yield


class Kit:
    """A cache with one source and one user."""

    def __init__(self) -> None:
        self.source = Source()
        self.user = User()
        self.tasks: set[asyncio.Task[None]] = set()
        self.cache = SecretCache(asyncio.get_running_loop(), self._spawn, self._open)
        self.cache.add_user(self.user)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _open(self, settings: schema.SecretManagerSettings) -> SecretSource:
        if settings.id == "vault/bad":
            raise ConfigError("on purpose")
        return self.source

    def manage(self, id_: str = "vault/1") -> None:
        """Let there be a manager."""
        settings = schema.Vault(id=id_, uri="http://a", prefix="kv", token="t")
        self.cache.changed([Change("secrets", id_, settings)])

    def ask(self, text: str = JACK) -> str | None:
        reference = parse(text)
        assert reference is not None
        return self.cache.secret(reference)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
                await asyncio.sleep(0.001)


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 0.02)
    monkeypatch.setattr(module, "RETRY_AT_MOST", 0.02)


def run(work: Callable[[Kit], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        kit = Kit()
        try:
            await work(kit)
        finally:
            kit.cache.close()
            for task in kit.tasks:
                task.cancel()
            await asyncio.gather(*kit.tasks, return_exceptions=True)

    asyncio.run(main())


def test_a_secret_is_there_soon_after_it_was_asked_for_and_its_users_hear_of_it() -> None:
    async def work(kit: Kit) -> None:
        kit.manage()
        assert kit.ask() is None
        await kit.cache.settled(30)
        assert kit.ask() == "one"
        assert kit.ask("$secret://vault/1/team/jack/other") == "two"
        assert kit.ask("$secret://vault/1/team/jack/none") is None
        assert kit.user.heard == [PLACE]
        assert kit.source.asked == ["team/jack"]

    run(work)


def test_the_manager_may_come_after_the_question_and_go() -> None:
    async def work(kit: Kit) -> None:
        assert kit.ask() is None
        await kit.cache.settled(30)
        assert kit.source.asked == []
        kit.manage()
        await kit.cache.settled(30)
        assert kit.ask() == "one"
        kit.cache.changed([Change("secrets", "vault/1", None)])
        assert kit.ask() is None
        await kit.until(lambda: kit.user.heard == [PLACE, PLACE])

    run(work)


def test_other_settings_mean_another_question() -> None:
    async def work(kit: Kit) -> None:
        kit.manage()
        kit.ask()
        await kit.cache.settled(30)
        kit.source = Source()
        kit.source.values = {"team/jack": {"key": "new"}}
        kit.manage()
        assert kit.ask() == "one"  # until it is known
        await kit.until(lambda: kit.ask() == "new")

    run(work)


def test_an_answer_to_the_question_of_former_settings_does_not_count() -> None:
    async def work(kit: Kit) -> None:
        kit.manage()
        kit.ask()
        former = kit.source
        former.lets.clear()
        await kit.until(lambda: former.asked != [])
        kit.source = Source()
        kit.source.values = {"team/jack": {"key": "new"}}
        kit.manage()
        former.lets.set()
        await kit.cache.settled(30)
        assert kit.ask() == "new"
        assert kit.user.heard == [PLACE]

    run(work)


@pytest.mark.usefixtures("quickly")
def test_it_is_fetched_again_and_users_hear_of_what_has_changed_alone() -> None:
    async def work(kit: Kit) -> None:
        kit.manage()
        kit.ask()
        await kit.until(lambda: len(kit.source.asked) > 3)
        assert kit.user.heard == [PLACE]
        kit.source.values["team/jack"] = {"key": "other"}
        await kit.until(lambda: kit.ask() == "other")
        await kit.until(lambda: kit.user.heard == [PLACE, PLACE])
        del kit.source.values["team/jack"]
        await kit.until(lambda: kit.ask() is None)
        await kit.until(lambda: len(kit.user.heard) == 3)

    run(work)


@pytest.mark.usefixtures("quickly")
@pytest.mark.parametrize("error", [SecretFailed("no answer"), RuntimeError("on purpose")])
def test_what_cannot_be_fetched_stays_and_is_tried_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def work(kit: Kit) -> None:
        kit.manage()
        kit.ask()
        await kit.cache.settled(30)
        kit.source.fails = error
        tries = len(kit.source.asked)
        await kit.until(lambda: len(kit.source.asked) > tries + 3)
        assert kit.ask() == "one"
        kit.source.fails = None
        kit.source.values["team/jack"] = {"key": "back"}
        await kit.until(lambda: kit.ask() == "back")

    run(work)
    assert "vault/1/team/jack" in caplog.text
    assert "one" not in caplog.text.replace("None", "")


@pytest.mark.usefixtures("quickly")
def test_nobody_waits_for_what_cannot_be_fetched() -> None:
    async def work(kit: Kit) -> None:
        kit.source.fails = SecretFailed("no answer")
        kit.manage()
        kit.ask()
        await kit.cache.settled(30)
        assert kit.ask() is None
        kit.source.fails = None
        await kit.until(lambda: kit.ask() == "one")

    run(work)


def test_one_who_does_not_answer_is_waited_for_no_longer_than_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def work(kit: Kit) -> None:
        kit.source.lets.clear()
        kit.manage()
        kit.ask()
        await kit.cache.settled(0.01)
        assert kit.ask() is None
        kit.source.lets.set()
        await kit.until(lambda: kit.ask() == "one")

    run(work)
    assert "serves without 1 secrets" in caplog.text


@pytest.mark.usefixtures("quickly")
def test_what_nobody_refers_to_any_more_is_forgotten() -> None:
    async def work(kit: Kit) -> None:
        kit.manage()
        kit.ask()
        await kit.cache.settled(30)
        kit.user.uses = False
        await kit.until(lambda: not kit.cache._entries)
        tries = len(kit.source.asked)
        await asyncio.sleep(0.06)
        assert len(kit.source.asked) == tries
        kit.user.uses = True
        assert kit.ask() is None
        await kit.cache.settled(30)
        assert kit.ask() == "one"

    run(work)


def test_few_are_fetched_at_a_time_and_all_in_the_end() -> None:
    async def work(kit: Kit) -> None:
        names = [f"n{number}" for number in range(100)]
        kit.source.values = {name: {"key": name} for name in names}
        kit.source.lets.clear()
        kit.manage()
        for name in names:
            kit.ask(f"$secret://vault/1/{name}/key")
        await kit.until(lambda: kit.source.under_way == module.AT_ONCE)
        kit.source.lets.set()
        await kit.cache.settled(30)
        assert [kit.ask(f"$secret://vault/1/{name}/key") for name in names] == names
        assert kit.source.most == module.AT_ONCE

    run(work)


def test_a_manager_that_cannot_be_used_is_as_none(caplog: pytest.LogCaptureFixture) -> None:
    async def work(kit: Kit) -> None:
        assert kit.ask("$secret://vault/bad/a/b") is None
        kit.manage("vault/bad")
        await kit.cache.settled(30)
        assert kit.ask("$secret://vault/bad/a/b") is None

    run(work)
    assert "secrets/vault/bad cannot be used: on purpose" in caplog.text


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        ({"a": "b"}, "a", "b"),
        ({"a": 1}, "a", "1"),
        ({"a": {"b": "c"}}, "a", None),
        ({"a": "b"}, "", None),
        ('{"a":"b"}', "a", "b"),
        ('{"a":"b"}', "", '{"a":"b"}'),
        ("plain", "", "plain"),
        ("plain", "a", None),
    ],
)
def test_values_of_keys(value: Any, key: str, text: str | None) -> None:
    async def work(kit: Kit) -> None:
        kit.source.values["name"] = value
        kit.manage()
        reference = SecretReference("vault", "1", "name", key)
        kit.cache.secret(reference)
        await kit.cache.settled(30)
        assert kit.cache.secret(reference) == text

    run(work)
