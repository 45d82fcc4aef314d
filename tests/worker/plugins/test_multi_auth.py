"""multi-auth (plugins.md section 3)."""

from typing import Any

import pytest

from tests.worker.plugins.test_basic_auth import basic
from worker.plugins.testing import PluginKit

RECORDS: dict[str, Any] = {
    "consumers/jack": {"username": "jack", "plugins": {"key-auth": {"key": "k"}}},
    "consumers/bob": {"username": "bob", "plugins": {"basic-auth": {"username": "bob", "password": "p"}}},
    "consumers/nobody": {"username": "nobody"},
}
BOTH: list[dict[str, Any]] = [{"basic-auth": {}}, {"key-auth": {"hide_credentials": True}}]


def name_of(kit: PluginKit, headers: dict[str, str]) -> str | None:
    upstream = kit.request(headers=headers).upstream
    return upstream.header("x-consumer-username") if upstream is not None else None


def test_any_of_them_opens_and_the_first_decides() -> None:
    with PluginKit({"multi-auth": {"auth_plugins": BOTH}}, RECORDS) as kit:
        assert name_of(kit, {"apikey": "k"}) == "jack"
        assert name_of(kit, {"Authorization": basic("bob:p")}) == "bob"
        assert name_of(kit, {"Authorization": basic("bob:p"), "apikey": "k"}) == "bob"
        assert name_of(kit, {"Authorization": basic("bob:wrong"), "apikey": "k"}) == "jack"


def test_what_hides_its_credential_does_so_when_it_succeeds() -> None:
    with PluginKit({"multi-auth": {"auth_plugins": BOTH}}, RECORDS) as kit:
        upstream = kit.request(headers={"apikey": "k"}).upstream
        assert upstream is not None
        assert upstream.header("apikey") is None
        upstream = kit.request(headers={"Authorization": basic("bob:p"), "apikey": "k"}).upstream
        assert upstream is not None
        assert upstream.header("apikey") == "k"


def test_none_of_them_is_401_with_all_challenges() -> None:
    with PluginKit({"multi-auth": {"auth_plugins": BOTH}}, RECORDS) as kit:
        for headers in ({}, {"apikey": "x"}, {"Authorization": "x"}):
            answer = kit.request(headers=headers)
            assert (answer.status, answer.body) == (401, b'{"message":"Authorization Failed"}\n')
            assert answer.headers("www-authenticate") == ['Basic realm="basic"', 'apikey realm="key"']


def test_an_anonymous_consumer_is_a_success() -> None:
    plugins = [{"key-auth": {}}, {"basic-auth": {"anonymous_consumer": "nobody"}}]
    with PluginKit({"multi-auth": {"auth_plugins": plugins}}, RECORDS) as kit:
        assert name_of(kit, {}) == "nobody"
        assert name_of(kit, {"apikey": "k"}) == "jack"


def test_one_that_needs_the_body_is_tried_as_well() -> None:
    plugins = [{"hmac-auth": {"validate_request_body": True}}, {"key-auth": {}}]
    with PluginKit({"multi-auth": {"auth_plugins": plugins}}, RECORDS) as kit:
        answer = kit.request("POST", headers={"apikey": "k"}, body=b"abc")
        assert answer.upstream is not None
        assert answer.upstream.body == b"abc"
        assert kit.request("POST", body=b"abc").body == b'{"message":"Authorization Failed"}\n'


@pytest.mark.parametrize(
    ("plugins", "path"),
    [
        (None, "$.plugins"),
        ([], "auth_plugins"),
        ([{"key-auth": {}}], "auth_plugins"),
        ([{"key-auth": {}}, {}], "auth_plugins[1]"),
        ([{"key-auth": {}, "basic-auth": {}}, {"key-auth": {}}], "auth_plugins[0]"),
        ([{"key-auth": {}}, {"limit-count": {}}], "auth_plugins[1]['limit-count']"),
        ([{"key-auth": {}}, {"multi-auth": {}}], "auth_plugins[1]['multi-auth']"),
        ([{"key-auth": {}}, {"basic-auth": 1}], "auth_plugins[1]['basic-auth']"),
        ([{"key-auth": {"header": 1}}, {"basic-auth": {}}], "auth_plugins[0]['key-auth'].header"),
    ],
)
def test_what_cannot_be_configured_is_refused(plugins: Any, path: str) -> None:
    with PluginKit() as kit:
        complaint = kit.refuses({"multi-auth": {} if plugins is None else {"auth_plugins": plugins}})
        assert path in complaint


def test_configurations_that_lua_has_written_as_arrays_are_objects() -> None:
    with PluginKit({"multi-auth": {"auth_plugins": [{"key-auth": []}, {"basic-auth": []}]}}, RECORDS) as kit:
        assert name_of(kit, {"apikey": "k"}) == "jack"
