"""``$secret://`` in consumers, credentials and plugins, whatever comes first and whatever changes."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.vault import Vault
from worker.plugins.references import is_same_place
from worker.plugins.testing import PluginKit
from worker.secrets import cache

JACK = {"plugins": {"key-auth": {"key": "$secret://vault/1/jack/key"}}}


@pytest.fixture
def vault() -> Iterator[Vault]:
    running = Vault({"kv/apisix/jack": {"key": "one"}, "kv/apisix/route": {"header": "x-one", "realm": "r"}})
    yield running
    running.close()


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 0.02)


def settle(kit: PluginKit) -> None:
    kit.run(kit.context.secrets.settled(9))


def until(kit: PluginKit, condition: Callable[[], bool]) -> None:
    async def look() -> None:
        await asyncio.sleep(0.005)

    for _ in range(1000):
        if condition():
            return
        kit.run(look())
    raise AssertionError("it has not come")


def status(kit: PluginKit, key: str) -> int:
    return kit.request(headers={"apikey": key}).status


@pytest.mark.parametrize("order", [("consumers/jack", "secrets/vault/1"), ("secrets/vault/1", "consumers/jack")])
def test_a_consumer_is_known_by_a_secret_whatever_comes_first(vault: Vault, order: tuple[str, ...]) -> None:
    records = {"consumers/jack": JACK, "secrets/vault/1": vault.settings()}
    with PluginKit({"key-auth": {}}) as kit:
        for key in order:
            kit.put(key, records[key])
        settle(kit)
        assert [status(kit, "one"), status(kit, "$secret://vault/1/jack/key")] == [200, 401]


def test_a_secret_that_changes_or_goes_takes_effect(vault: Vault) -> None:
    records = {"secrets/vault/1": vault.settings(), "consumers/jack": {}, "consumers/jack/credentials/a": JACK}
    with PluginKit({"key-auth": {}}, records) as kit:
        settle(kit)
        assert [status(kit, "one"), status(kit, "two")] == [200, 401]
        vault.values["kv/apisix/jack"] = {"key": "two"}
        until(kit, lambda: status(kit, "two") == 200)
        assert status(kit, "one") == 401
        vault.status = 500
        asked = len(vault.asked)
        until(kit, lambda: len(vault.asked) > asked + 1)
        assert status(kit, "two") == 200  # a Vault that is away changes nothing
        vault.status = 200
        del vault.values["kv/apisix/jack"]
        until(kit, lambda: status(kit, "two") == 401)


def test_without_its_manager_a_secret_opens_nothing(vault: Vault) -> None:
    with PluginKit({"key-auth": {}}, {"secrets/vault/1": vault.settings(), "consumers/jack": JACK}) as kit:
        settle(kit)
        assert status(kit, "one") == 200
        kit.put("secrets/vault/1", None)
        settle(kit)
        assert status(kit, "one") == 401
        kit.put("secrets/vault/1", vault.settings())
        settle(kit)
        assert status(kit, "one") == 200


@pytest.mark.parametrize("place", ["routes", "services", "plugin_configs", "global_rules"])
def test_a_plugin_is_made_anew_when_its_secret_comes_or_changes(vault: Vault, place: str) -> None:
    plugins = {"key-auth": {"header": "$secret://vault/1/route/header", "query": "q"}}
    records: dict[str, Any] = {"consumers/jack": {"plugins": {"key-auth": {"key": "k"}}}}
    if place != "routes":
        records[f"{place}/x"] = {"plugins": plugins}
    route = {"services": {"service_id": "x"}, "plugin_configs": {"plugin_config_id": "x"}}.get(place, {})
    with PluginKit(plugins if place == "routes" else {}, records, route=route) as kit:
        assert kit.request(headers={"x-one": "k"}).status == 503  # the text itself is not the name of a field
        kit.put("secrets/vault/1", vault.settings())
        settle(kit)
        assert kit.request(headers={"x-one": "k"}).status == 200
        assert kit.request().status == 401
        vault.values["kv/apisix/route"] = {"header": "x-two"}
        until(kit, lambda: kit.request(headers={"x-two": "k"}).status == 200)
        assert kit.request(headers={"x-one": "k"}).status == 401


def test_a_plugin_of_a_consumer_is_made_anew(vault: Vault) -> None:
    plugins = {
        "key-auth": {"key": "k"},
        "fault-injection": {"abort": {"http_status": 418, "body": "$secret://vault/1/a/b"}},
    }
    vault.values["kv/apisix/a"] = {"b": "first"}
    records = {"consumers/jack": {"plugins": plugins}, "secrets/vault/1": vault.settings()}
    with PluginKit({"key-auth": {}}, records) as kit:
        settle(kit)
        assert kit.request(headers={"apikey": "k"}).body == b"first"
        vault.values["kv/apisix/a"] = {"b": "second"}
        until(kit, lambda: kit.request(headers={"apikey": "k"}).body == b"second")


def test_a_plugin_whose_secret_stays_the_same_stays_the_same(vault: Vault) -> None:
    plugins = {"key-auth": {"realm": "$secret://vault/1/route/realm"}}
    with PluginKit(plugins, {"secrets/vault/1": vault.settings()}) as kit:
        settle(kit)
        assert kit.request().header("www-authenticate") == 'apikey realm="r"'
        before = kit.context.plugins.maker.made["routes/kit"]["key-auth"].plugin
        asked = len(vault.asked)
        until(kit, lambda: len(vault.asked) > asked + 2)
        kit.request()
        assert kit.context.plugins.maker.made["routes/kit"]["key-auth"].plugin is before


def test_what_no_record_refers_to_any_more_is_not_asked_for(vault: Vault) -> None:
    plugins = {"key-auth": {"realm": "$secret://vault/1/route/realm"}}
    with PluginKit(plugins, {"secrets/vault/1": vault.settings(), "consumers/jack": JACK}) as kit:
        settle(kit)
        kit.put("consumers/jack", {})
        kit.put("routes/kit", {"uri": "/*", "plugins": {}})
        until(kit, lambda: not kit.context.secrets._entries)


def test_what_a_secret_holds_is_no_matter_of_what_is_valid(vault: Vault) -> None:
    vault.values["kv/apisix/jack"] = {"key": ""}
    body = {"fault-injection": {"abort": {"http_status": 200, "headers": {"X-A": "$secret://vault/1/line/a"}}}}
    vault.values["kv/apisix/line"] = {"a": "one\ntwo"}
    with PluginKit({"key-auth": {}}, {"secrets/vault/1": vault.settings(), "consumers/jack": JACK}) as kit:
        settle(kit)
        kit.put("consumers/jack", {**JACK, "desc": "written again"})  # a worker that knows the secret is no stricter
        assert status(kit, "") == 401
        assert kit.refuses(body) == ""
        settle(kit)
        assert kit.refuses(body) == ""
        assert "rejected_code" in kit.refuses(
            {"acl": {"deny_labels": {"a": ["$secret://vault/1/a/b"]}, "rejected_code": 1}}
        )


@pytest.mark.parametrize(
    ("path", "other", "is_same"),
    [
        ("$.a", "$.a", True),
        ("$.a", "$.b", False),
        ("$.a.b", "$.a", False),
        ("$.a[...].b", "$.a[3].b", True),
        ("$.a[2].b", "$.a[3].b", False),
        ("$.a[...]", "$.a.name", True),
        ("$.a['X-A']", "$.a.X-A", True),
        ("$", "$", True),
        ("$", "$.a", False),
    ],
)
def test_places_in_configurations(path: str, other: str, is_same: bool) -> None:
    assert is_same_place(path, other) is is_same


def test_managers_that_nobody_knows_are_told_of(vault: Vault, caplog: pytest.LogCaptureFixture) -> None:
    reference = "$secret://moon/1/jack/key"
    with PluginKit({"key-auth": {}}, {"consumers/jack": {"plugins": {"key-auth": {"key": reference}}}}) as kit:
        assert status(kit, reference) == 401
    assert "consumers/jack: key-auth opens nothing" in caplog.text
