"""basic-auth (plugins.md section 3)."""

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.plugins.basic_auth import credentials
from worker.plugins.testing import PluginKit

BOB: dict[str, Any] = {
    "consumers/bob": {"username": "bob", "plugins": {"basic-auth": {"username": "bob", "password": "p"}}},
    "consumers/eve": {"username": "eve", "plugins": {"basic-auth": {"username": "eve", "password": "a:b c"}}},
}
MISSING = b'{"message":"Missing authorization in request"}\n'
MALFORMED = b'{"message":"Invalid authorization in request"}\n'
WRONG = b'{"message":"Invalid user authorization"}\n'


def basic(text: str, scheme: str = "Basic") -> str:
    return f"{scheme} {b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "value", [basic("bob:p"), basic("bob:p", "basic"), basic("bob:p", "BASIC"), basic("eve:a:b c")]
)
def test_name_and_password_open(value: str) -> None:
    with PluginKit({"basic-auth": {}}, BOB) as kit:
        assert kit.request(headers={"Authorization": value}).status == 200


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (None, MISSING),
        ("", MALFORMED),
        ("Basic", MALFORMED),
        ("Basic ", MALFORMED),
        ("Basic !!!!", MALFORMED),
        ("Bearer Ym9iOnA=", MALFORMED),
        ("BasicYm9iOnA=", MALFORMED),
        (basic("bob"), MALFORMED),
        (basic("bob:q"), WRONG),
        (basic("bob:"), WRONG),
        (basic("bob:p:anything"), WRONG),  # what APISIX lets through
        (basic("bob: p "), WRONG),
        (basic("mallory:p"), WRONG),
        (basic("mallory:"), WRONG),
        (basic(":p"), WRONG),
    ],
)
def test_anything_else_is_401(value: str | None, body: bytes) -> None:
    with PluginKit({"basic-auth": {}}, BOB) as kit:
        answer = kit.request(headers={} if value is None else {"Authorization": value})
    assert (answer.status, answer.body, answer.upstream) == (401, body, None)
    assert answer.header("www-authenticate") == 'Basic realm="basic"'


def test_credentials_are_hidden_and_the_realm_is_configured() -> None:
    with PluginKit({"basic-auth": {"hide_credentials": True, "realm": "r"}}, BOB) as kit:
        upstream = kit.request(headers={"Authorization": basic("bob:p")}).upstream
        assert upstream is not None
        assert upstream.header("authorization") is None
        assert kit.request().header("www-authenticate") == 'Basic realm="r"'
    with PluginKit({"basic-auth": {}}, BOB) as kit:
        upstream = kit.request(headers={"Authorization": basic("bob:p")}).upstream
        assert upstream is not None
        assert upstream.header("authorization") == basic("bob:p")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"username": "u"},
        {"password": "p"},
        {"username": 1, "password": "p"},
        {"username": "u", "password": ""},
    ],
)
def test_a_consumer_needs_both(config: dict[str, Any]) -> None:
    with PluginKit() as kit, pytest.raises(AssertionError):
        kit.put("consumers/bob", {"username": "bob", "plugins": {"basic-auth": config}})


@given(st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"])), st.binary())
def test_all_that_follows_the_first_colon_is_the_password(name: str, password: bytes) -> None:
    value = b"Basic " + b64encode(name.encode() + b":" + password)
    assert credentials(value) == (name.encode(), password)


@given(st.binary())
def test_nothing_that_is_sent_breaks_it(value: bytes) -> None:
    credentials(value)
    credentials(b"Basic " + value)
