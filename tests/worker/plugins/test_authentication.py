"""What plugins that authenticate have in common: identity, forged fields, anonymous consumers, references."""

from typing import Annotated, Any

import msgspec
import pytest

from worker.consumers import AttachedConsumer
from worker.exchange import Exchange
from worker.plugins.answer import Answer, json_answer
from worker.plugins.authentication import AuthenticationConfig, Authenticator
from worker.plugins.base import NoConfig, Plugin
from worker.plugins.testing import PluginKit
from worker.variables import accessor

FORGED = {
    "X-Consumer-Username": "root",
    "x-credential-identifier": "root",
    "X-Consumer-Custom-ID": "root",
    "X_Consumer_Username": "root",
}
JACK: dict[str, Any] = {
    "consumers/jack": {
        "username": "jack",
        "group_id": "g",
        "labels": {"custom_id": "c-1"},
        "plugins": {"key-auth": {"key": "k"}},
    },
    "consumers/jack/credentials/second": {"plugins": {"key-auth": {"key": "k2"}}},
    "consumers/jill": {"username": "jill", "plugins": {"key-auth": {"key": "k3"}}},
    "consumers/nobody": {"username": "nobody"},
    "consumer_groups/g": {"plugins": {}},
}


class Telling(Plugin[NoConfig]):
    """Answers with what is known of the consumer."""

    name = "telling"

    def access(self, exchange: Exchange) -> Answer:
        return json_answer(200, [accessor(name)(exchange) for name in ("consumer_name", "consumer_group_id")])


def identity(kit: PluginKit, headers: dict[str, str]) -> list[str | None]:
    upstream = kit.request(headers={**FORGED, **headers}).upstream
    assert upstream is not None
    assert upstream.header("x_consumer_username") is None
    return [upstream.header(n) for n in ("x-consumer-username", "x-credential-identifier", "x-consumer-custom-id")]


def test_the_upstream_is_told_who_it_is_and_forged_fields_never_get_through() -> None:
    with PluginKit({"key-auth": {}}, JACK) as kit:
        assert identity(kit, {"apikey": "k"}) == ["jack", None, "c-1"]
        assert identity(kit, {"apikey": "k2"}) == ["jack", "second", "c-1"]
        assert identity(kit, {"apikey": "k3"}) == ["jill", None, None]


def test_forged_fields_do_not_get_through_where_the_filter_exempts_either() -> None:
    for plugins in (
        {"key-auth": {"_meta": {"filter": [["arg_x", "==", "1"]]}}},
        {"multi-auth": {"auth_plugins": [{"key-auth": {}}] * 2, "_meta": {"filter": [["arg_x", "==", "1"]]}}},
    ):
        with PluginKit(plugins, JACK) as kit:
            assert identity(kit, {}) == [None, None, None]
            assert kit.request(target="/?x=1").status == 401


def test_a_filter_that_takes_too_long_exempts_nobody() -> None:
    exempted = {"filter": [["http_x_from", "!", "~~", "^(x+x+)+$"]]}  # from xx, xxx, …
    with PluginKit({"key-auth": {"_meta": exempted}}, JACK) as kit:
        answers = [kit.request(headers={"X-From": text, "apikey": "x"}) for text in ("xx", "x!", "x" * 2000 + "!")]
    assert [answer.status for answer in answers] == [200, 401, 401]


def test_an_exempting_filter_leaves_alone_what_another_plugin_has_found_out() -> None:
    rules: dict[str, Any] = {"global_rules/1": {"plugins": {"key-auth": {}}}}
    with PluginKit({"basic-auth": {"_meta": {"filter": [["arg_x", "==", "1"]]}}}, {**JACK, **rules}) as kit:
        assert identity(kit, {"apikey": "k3"}) == ["jill", None, None]


@pytest.mark.parametrize(("key", "known"), [("k", ["jack", "g"]), ("k2", ["jack", "g"]), ("k3", ["jill", None])])
def test_variables_know_the_consumer(key: str, known: list[str | None]) -> None:
    with PluginKit({"key-auth": {}, "telling": {}}, JACK, extra=(Telling,)) as kit:
        assert kit.request(headers={"apikey": key}).json() == known


def test_the_plugin_of_the_route_has_the_last_word() -> None:
    rules = {"global_rules/1": {"plugins": {"key-auth": {"header": "first"}}}}
    with PluginKit({"key-auth": {}, "telling": {}}, {**JACK, **rules}, extra=(Telling,)) as kit:
        assert kit.request(headers={"first": "k", "apikey": "k3"}).json() == ["jill", None]


def test_an_anonymous_consumer_is_attached_when_nobody_is_found() -> None:
    with PluginKit({"key-auth": {"anonymous_consumer": "nobody"}}, JACK) as kit:
        assert identity(kit, {}) == ["nobody", None, None]
        assert identity(kit, {"apikey": "wrong"}) == ["nobody", None, None]
        assert identity(kit, {"apikey": "k3"}) == ["jill", None, None]
        kit.put("consumers/nobody", None)
        answer = kit.request()
        assert (answer.status, answer.body) == (401, b'{"message":"Invalid user authorization"}\n')
        assert answer.header("www-authenticate") == 'apikey realm="key"'


def test_the_plugins_of_an_anonymous_consumer_apply() -> None:
    records = {"consumers/nobody": {"username": "nobody", "plugins": {"telling": {}}}}
    with PluginKit({"key-auth": {"anonymous_consumer": "nobody"}}, {**JACK, **records}, extra=(Telling,)) as kit:
        assert kit.request().json() == ["nobody", None]
        assert kit.request(headers={"apikey": "k3"}).upstream is not None


@pytest.mark.parametrize("realm", ["", "x" * 129, "a\nb", "ä"])
def test_a_realm_is_printable_and_short(realm: str) -> None:
    with PluginKit() as kit:
        assert "$.plugins" in kit.refuses({"key-auth": {"realm": realm}})


def test_a_realm_is_quoted() -> None:
    with PluginKit({"key-auth": {"realm": 'a "b" \\'}}) as kit:
        assert kit.request().header("www-authenticate") == r'apikey realm="a \"b\" \\"'


def test_an_error_response_of_meta_keeps_the_challenge() -> None:
    with PluginKit({"key-auth": {"_meta": {"error_response": {"e": 1}}}}) as kit:
        answer = kit.request()
        assert (answer.status, answer.body) == (401, b'{"e":1}\n')
        assert answer.header("www-authenticate") == 'apikey realm="key"'


def test_a_consumer_without_its_group_is_503() -> None:
    with PluginKit({"key-auth": {}}, JACK) as kit:
        assert kit.request(headers={"apikey": "k"}).status == 200
        kit.put("consumer_groups/g", None)
        assert kit.request(headers={"apikey": "k"}).status == 503
        assert kit.request(headers={"apikey": "k3"}).status == 200


def test_a_failing_plugin_that_keeps_somebody_out_is_never_bypassed(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.plugins.key_auth import KeyAuth
    from worker.plugins.multi_auth import MultiAuth

    def fails(*_: object) -> None:
        raise RuntimeError("on purpose")

    for plugin, config in ((KeyAuth, {}), (MultiAuth, {"auth_plugins": [{"key-auth": {}}, {"basic-auth": {}}]})):
        monkeypatch.setattr(plugin, "rewrite", fails)
        with PluginKit({plugin.name: config}, settings={"plugins": {"on_failure": "bypass"}}) as kit:
            assert kit.request().status == 500


# plugins of others


class Pin(msgspec.Struct):
    """What a consumer has."""

    pin: Annotated[str, msgspec.Meta(min_length=4)]


class PinConfig(AuthenticationConfig, kw_only=True):
    """Nothing of its own."""

    realm: str = "pin"


class PinAuth(Authenticator[PinConfig]):
    """One that somebody else has written."""

    name = "pin-auth"
    priority = 2505
    Config = PinConfig
    Consumer = Pin
    credential = "pin"
    scheme = "Pin"

    def authenticate(self, exchange: Exchange) -> AttachedConsumer | str:
        value = exchange.request.header(b"pin") if exchange.request is not None else None
        return self.consumers.find(self.name, (value or b"").decode()) or "no such pin"


def test_a_plugin_of_somebody_else_has_consumers_and_credentials_too() -> None:
    records = {
        "consumers/jack": {"plugins": {"pin-auth": {"pin": "1111"}}},
        "consumers/jack/credentials/other": {"plugins": {"pin-auth": {"pin": "2222"}}},
    }
    with PluginKit({"pin-auth": {}}, records, extra=(PinAuth,)) as kit:
        assert identity(kit, {"pin": "1111"}) == ["jack", None, None]
        assert identity(kit, {"pin": "2222"}) == ["jack", "other", None]
        assert kit.request(headers={"pin": "3333"}).status == 401
        attached = kit.context.plugins.consumers.find("pin-auth", "1111")
        assert attached is not None
        assert not attached.has_plugins
        with pytest.raises(AssertionError, match="pin"):
            kit.put("consumers/jill", {"plugins": {"pin-auth": {"pin": "1"}}})


def test_a_plugin_of_somebody_else_that_fails_is_not_bypassed_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(PinAuth, "rewrite", fails)
    with PluginKit({"pin-auth": {}}, extra=(PinAuth,), settings={"plugins": {"on_failure": "bypass"}}) as kit:
        assert kit.request().status == 500


# references


def test_a_credential_may_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROPYLON_TEST_KEY", "from outside")
    monkeypatch.setenv("PROPYLON_TEST_KEYS", '{"jill": "jills"}')
    records = {
        "consumers/jack": {"username": "jack", "plugins": {"key-auth": {"key": "$env://PROPYLON_TEST_KEY"}}},
        "consumers/jill": {"username": "jill", "plugins": {"key-auth": {"key": "$ENV://PROPYLON_TEST_KEYS/jill"}}},
    }
    with PluginKit({"key-auth": {}}, records) as kit:
        assert identity(kit, {"apikey": "from outside"})[0] == "jack"
        assert identity(kit, {"apikey": "jills"})[0] == "jill"
        assert kit.request(headers={"apikey": "$env://PROPYLON_TEST_KEY"}).status == 401


@pytest.mark.parametrize("reference", ["$env://PROPYLON_NOT_THERE", "$secret://vault/1/jack/key"])
def test_a_credential_whose_reference_leads_nowhere_opens_nothing(reference: str) -> None:
    records = {
        "consumers/jack": {"username": "jack", "plugins": {"key-auth": {"key": reference}}},
        "consumers/jill": {"username": "jill", "plugins": {"basic-auth": {"username": "jill", "password": reference}}},
    }
    with PluginKit({"key-auth": {}}, records) as kit:
        assert kit.request(headers={"apikey": reference}).status == 401
        assert kit.request(headers={"apikey": ""}).status == 401
    with PluginKit({"basic-auth": {}}, records) as kit:
        assert kit.request(headers={"Authorization": "Basic amlsbDo="}).status == 401


def test_a_route_may_refer_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROPYLON_TEST_HEADER", "x-key")
    with PluginKit({"key-auth": {"header": "$env://PROPYLON_TEST_HEADER"}}, JACK) as kit:
        assert kit.request(headers={"x-key": "k3"}).status == 200
        assert kit.request(headers={"apikey": "k3"}).status == 401


def test_what_a_reference_stands_for_is_checked_and_what_it_cannot_be_refuses_requests() -> None:
    with PluginKit({"key-auth": {"header": "$env://PROPYLON_NOT_THERE"}}, JACK) as kit:
        assert kit.request(headers={"apikey": "k"}).status == 503  # no name of a field can be what is left
        assert "header" in kit.refuses({"key-auth": {"header": "a b", "realm": "$env://PROPYLON_NOT_THERE"}})
