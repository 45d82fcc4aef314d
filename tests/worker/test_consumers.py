"""The index of consumers: what each value stands for, whatever comes in whatever order."""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync import schema
from config_sync.cache import Change, ConfigStore, Deletion, Entry
from worker.consumers import IN_PLACE, Consumers


class Credential(msgspec.Struct):
    """What the tests' plugins want."""

    key: str


def decode(plugin: str, config: Any, key: str) -> tuple[str, msgspec.Struct] | None:
    """Find by ``key``; without it, by nothing."""
    return (config["key"], Credential(config["key"])) if "key" in config else None


class Config:
    """A store with an index."""

    def __init__(self, decode: Callable[..., Any] = decode) -> None:
        self.store = ConfigStore(schema.decoders(None))
        self.consumers = Consumers(decode)
        self.store.subscribe(self.consumers.changed, self.consumers.stage)
        self.revision = 0

    def put(self, key: str, value: Any) -> None:
        """Write a record, or delete it with None."""
        self.revision += 1
        event = Deletion(key, self.revision) if value is None else self.entry(key, value)
        self.store.apply([event], self.revision)
        assert not self.store.rejected

    def entry(self, key: str, value: Any) -> Entry:
        return Entry(key, json.dumps(value).encode(), self.revision, 1, self.revision)

    def snapshot(self, values: dict[str, Any], seen: Callable[[], None] = lambda: None) -> None:
        """Take everything over; ``seen`` is called between the steps, until it is there."""
        self.revision += 1
        incoming = self.store.receive()
        for job in (incoming.add([self.entry(*pair) for pair in values.items()]), incoming.complete(self.revision)):
            for _ in job:
                if not incoming.is_done:
                    seen()
        assert not self.store.rejected

    def who(self, value: str, plugin: str = "key-auth") -> str | None:
        """Return the key of the record that a value leads to."""
        found = self.consumers.find(plugin, value)
        if found is None:
            return None
        return found.username if found.credential_id is None else f"{found.username}/{found.credential_id}"


def holding(key: str, plugin: str = "key-auth", **members: Any) -> dict[str, Any]:
    return {"plugins": {plugin: {"key": key}}, **members}


def test_a_consumer_is_found_by_what_it_has_with_each_plugin() -> None:
    config = Config()
    config.put("consumers/jack", {"plugins": {"key-auth": {"key": "a"}, "jwt-auth": {"key": "b"}}})
    assert config.who("a") == "jack"
    assert config.who("b") is None
    assert config.who("b", "jwt-auth") == "jack"
    assert config.who("a", "basic-auth") is None
    config.put("consumers/jack", {"plugins": {"jwt-auth": {"key": "a"}}})
    assert [config.who("a"), config.who("a", "jwt-auth"), config.who("b", "jwt-auth")] == [None, "jack", None]
    config.put("consumers/jack", None)
    assert config.who("a", "jwt-auth") is None


def test_what_is_attached_is_what_the_records_say_now() -> None:
    config = Config()
    config.put("consumers/jack", holding("a", group_id="g", labels={"custom_id": "7"}))
    config.put("consumers/jack/credentials/two", holding("b"))
    found = config.consumers.find("key-auth", "b")
    assert found is not None
    assert found.custom_id == "7"
    assert found == ("jack", "two", "g", {"custom_id": "7"}, False, Credential("b"))
    config.put("consumers/jack", {"plugins": {"echo": {"body": "x"}}})
    found = config.consumers.find("key-auth", "b")
    assert found == ("jack", "two", None, {}, True, Credential("b"))
    assert config.consumers.attached("jack") == ("jack", None, None, {}, True, None)
    assert config.consumers.attached("jack/credentials/two") is None
    assert config.consumers.attached("jill") is None


def test_a_credential_opens_nothing_without_its_consumer_whichever_comes_first() -> None:
    config = Config()
    config.put("consumers/jack/credentials/one", holding("a"))
    assert config.who("a") is None
    config.put("consumers/jack", {})
    assert config.who("a") == "jack/one"
    config.put("consumers/jack", None)
    assert config.who("a") is None


@pytest.mark.parametrize("switch", [{"_meta": {"disable": True}}, {"disable": True}])
def test_what_is_disabled_opens_nothing(switch: dict[str, Any]) -> None:
    config = Config()
    config.put("consumers/jack", {"plugins": {"key-auth": {"key": "a", **switch}}})
    config.put("consumers/jack/credentials/one", {"plugins": {"key-auth": {"key": "b", **switch}}})
    assert [config.who("a"), config.who("b")] == [None, None]
    config.put("consumers/jack/credentials/one", holding("b"))
    assert [config.who("a"), config.who("b")] == [None, "jack/one"]


def test_what_cannot_be_decoded_opens_nothing_and_costs_nobody_else() -> None:
    config = Config()
    config.put("consumers/jack", {"plugins": {"key-auth": {}, "jwt-auth": {"key": "b"}}})
    assert config.who("b", "jwt-auth") == "jack"


NAMES = ("ada", "bob", "cy", "ada/credentials/x", "cy/credentials/y")


@given(st.permutations(NAMES), st.permutations(NAMES))
def test_of_several_with_one_value_the_first_key_counts_in_whatever_order_they_come(
    order: Sequence[str], leaving: Sequence[str]
) -> None:
    config = Config()
    for name in order:
        config.put(f"consumers/{name}", holding("same"))
    there = set(NAMES)
    for name in leaving:
        expected = [key for key in sorted(there) if key.partition("/")[0] in there]
        assert config.who("same") == (expected[0].replace("/credentials", "") if expected else None)
        config.put(f"consumers/{name}", None)
        there.discard(name)
    assert config.consumers.find("key-auth", "same") is None


def test_values_that_are_not_unique_are_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    config = Config()
    config.put("consumers/jack", holding("hush"))
    config.put("consumers/jill", holding("hush", "jwt-auth"))
    assert caplog.records == []
    config.put("consumers/ada", holding("hush"))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "key-auth" in record.getMessage()
    assert "consumers/ada, consumers/jack" in record.getMessage()
    assert "hush" not in record.getMessage()


def many(count: int, suffix: str = "") -> dict[str, Any]:
    return {f"consumers/u{at}": holding(f"k{at}{suffix}") for at in range(count)}


@pytest.mark.parametrize("count", [3, IN_PLACE + 1])
def test_a_snapshot_becomes_visible_at_one_instant(count: int) -> None:
    config = Config()
    values = many(count)
    config.snapshot(values)
    assert {config.who(f"k{at}") for at in range(count)} == {f"u{at}" for at in range(count)}
    changed = many(count - 1, "x") | {"consumers/new": holding("new")}

    def nothing_has_changed() -> None:
        assert config.who("k0") == "u0"
        assert config.who("new") is config.who("k0x") is None

    config.snapshot(changed, nothing_has_changed)
    assert [config.who("k0"), config.who(f"k{count - 1}"), config.who("new")] == [None, None, "new"]
    assert {config.who(f"k{at}x") for at in range(count - 1)} == {f"u{at}" for at in range(count - 1)}


def test_what_stays_the_same_stays_through_large_snapshots() -> None:
    config = Config()
    few = {"consumers/jack": holding("a"), "consumers/jack/credentials/one": holding("b")}
    config.snapshot(few)
    config.snapshot(few | many(3 * IN_PLACE))
    config.snapshot(few | many(3 * IN_PLACE, "x"))
    assert [config.who(value) for value in ("a", "b", "k5", "k5x")] == ["jack", "jack/one", None, "u5"]
    config.snapshot(few)
    assert [config.who(value) for value in ("a", "b", "k5x")] == ["jack", "jack/one", None]


@pytest.mark.parametrize("step", [1, 5, -1])
@pytest.mark.parametrize("count", [IN_PLACE // 2, IN_PLACE + 1])
def test_a_secret_that_changes_while_a_snapshot_is_on_its_way_is_not_lost(count: int, step: int) -> None:
    secrets = {"stays": "a", "comes": "b"}

    def refer(plugin: str, config: Any, key: str) -> tuple[str, msgspec.Struct] | None:
        value = secrets.get(config["key"].removeprefix("$secret://vault/1/x/"), config["key"])
        return value, Credential(value)

    def moments(at: int) -> list[int]:
        """Take a snapshot; the secrets change at one of its moments. Returns all moments."""
        secrets.update(stays="a", comes="b")
        config = Config(refer)
        config.snapshot(many(count) | stays)
        assert [config.who("a"), config.consumers.uses_secret(("vault", "1", "x"))] == ["stays", True]
        passed: list[int] = []

        def change() -> None:
            passed.append(len(passed))
            if passed[-1] == at:
                secrets.update(stays="c", comes="d")
                for _ in config.consumers.secret_changed(("vault", "1", "x")):
                    pass

        config.snapshot(comes | stays | many(count, "x"), change)
        expected = [None, None, "stays", "comes"] if at in passed else ["stays", "comes", None, None]
        assert [config.who(value) for value in "abcd"] == expected
        config.snapshot(many(count))
        assert not config.consumers.uses_secret(("vault", "1", "x"))
        return passed

    stays = {"consumers/stays": holding("$secret://vault/1/x/stays")}
    comes = {"consumers/comes": holding("$secret://vault/1/x/comes")}
    never = 1_000_000
    moments(moments(never)[step])


def test_a_snapshot_that_is_dropped_changes_nothing() -> None:
    config = Config()
    config.snapshot(many(2 * IN_PLACE))
    incoming = config.store.receive()
    for _ in incoming.add([config.entry(*pair) for pair in many(2 * IN_PLACE, "x").items()]):
        pass
    incoming.drop()
    assert [config.who("k0"), config.who("k0x")] == ["u0", None]
    config.put("consumers/u0", holding("k0x"))
    assert [config.who("k0"), config.who("k0x")] == [None, "u0"]


def test_of_very_many_that_are_not_unique_the_log_has_a_few(caplog: pytest.LogCaptureFixture) -> None:
    config = Config()
    config.snapshot({f"consumers/u{at}": holding("same") for at in range(3 * IN_PLACE)})
    assert len(caplog.records) < 30
    assert f"{3 * IN_PLACE - 1 - 20} more" in caplog.records[-1].getMessage()
    assert config.who("same") == "u0"


def test_a_large_snapshot_is_prepared_and_put_away_in_steps() -> None:
    config = Config()
    config.snapshot(many(4 * IN_PLACE))
    staging = config.consumers.stage()
    for at in range(4 * IN_PLACE):
        staging.add([Change("consumers", f"u{at}", schema.Consumer(plugins={"key-auth": {"key": f"k{at}x"}}))])
    assert sum(1 for _ in staging.finish()) == 2 * 4  # those that are there, and those that come
    assert [config.who("k0"), config.who("k0x")] == ["u0", None]
    staging.commit()
    assert [config.who("k0"), config.who("k0x")] == [None, "u0"]
    assert sum(1 for _ in staging.clean()) >= 3 * 4
