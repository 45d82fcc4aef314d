"""key-auth (plugins.md section 3)."""

from typing import Any

import pytest

from worker.plugins.testing import PluginKit

JACK = {"consumers/jack": {"username": "jack", "plugins": {"key-auth": {"key": "auth-one"}}}}
MISSING = b'{"message":"Missing API key in request"}\n'
INVALID = b'{"message":"Invalid API key in request"}\n'


def test_a_key_in_the_header_or_the_query_opens() -> None:
    with PluginKit({"key-auth": {}}, JACK) as kit:
        assert kit.request(headers={"APIKEY": "auth-one"}).status == 200
        assert kit.request(target="/?a=1&apikey=auth-one").status == 200
        assert kit.request(target="/?apikey=auth%2Done").status == 200


@pytest.mark.parametrize(
    ("headers", "target", "body"),
    [
        ({}, "/", MISSING),
        ({"apikey": "x"}, "/", INVALID),
        ({"apikey": ""}, "/", INVALID),
        ({"apikey": "AUTH-ONE"}, "/", INVALID),
        ({}, "/?apikey=x", INVALID),
        ({}, "/?apikey", INVALID),
        ({"apikey": "x"}, "/?apikey=auth-one", INVALID),  # the header goes first
        ({"apikey": "\xff"}, "/", INVALID),
        ({"apikeys": "auth-one"}, "/?api_key=auth-one", MISSING),
    ],
)
def test_anything_else_is_401(headers: dict[str, str], target: str, body: bytes) -> None:
    with PluginKit({"key-auth": {}}, JACK) as kit:
        answer = kit.request(target=target, headers=headers)
    assert (answer.status, answer.body, answer.upstream) == (401, body, None)
    assert answer.header("www-authenticate") == 'apikey realm="key"'


def test_names_and_realm_are_configured() -> None:
    with PluginKit({"key-auth": {"header": "X-Key", "query": "k", "realm": "r"}}, JACK) as kit:
        assert kit.request(headers={"x-key": "auth-one"}).status == 200
        assert kit.request(target="/?k=auth-one").status == 200
        answer = kit.request(headers={"apikey": "auth-one"})
        assert (answer.body, answer.header("www-authenticate")) == (MISSING, 'apikey realm="r"')


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/p?apikey=auth-one", "/p"),
        ("/p?a=%20+b&apikey=auth-one&c", "/p?a=%20+b&c"),
        ("/p?%61pikey=auth-one&apikey=again&a=1", "/p?a=1"),
    ],
)
def test_a_credential_is_hidden_where_it_was_found(target: str, sent: str) -> None:
    with PluginKit({"key-auth": {"hide_credentials": True}}, JACK) as kit:
        hidden = kit.request(target=target).upstream
        assert hidden is not None
        assert hidden.target == sent
        hidden = kit.request(headers={"apikey": "auth-one", "x-other": "1"}).upstream
        assert hidden is not None
        assert (hidden.header("apikey"), hidden.header("x-other")) == (None, "1")
    with PluginKit({"key-auth": {}}, JACK) as kit:
        shown = kit.request(target=target, headers={"apikey": "auth-one"}).upstream
        assert shown is not None
        assert (shown.target, shown.header("apikey")) == (target, "auth-one")


@pytest.mark.parametrize(
    "config", [{"header": ""}, {"header": "a b"}, {"header": 1}, {"hide_credentials": "yes"}, {"anonymous_consumer": 1}]
)
def test_what_cannot_be_configured_is_refused(config: dict[str, Any]) -> None:
    with PluginKit() as kit:
        assert f'"key-auth"].{next(iter(config))}' in kit.refuses({"key-auth": config}).replace("'", '"')


@pytest.mark.parametrize("config", [{}, {"key": ""}, {"key": 1}])
def test_a_consumer_needs_a_key(config: dict[str, Any]) -> None:
    with PluginKit() as kit, pytest.raises(AssertionError, match="key"):
        kit.put("consumers/jack", {"username": "jack", "plugins": {"key-auth": config}})


def test_an_encrypted_key_is_found_by_its_plain_text() -> None:
    """As APISIX has written it (data-model.md section 13)."""
    records = {"consumers/jack": {"username": "jack", "plugins": {"key-auth": {"key": "4y+JvURBE6ZwRbbgaryrhg=="}}}}
    with PluginKit({"key-auth": {}}, records) as kit:
        assert kit.request(headers={"apikey": "auth-one"}).status == 200
        assert kit.request(headers={"apikey": "4y+JvURBE6ZwRbbgaryrhg=="}).status == 401
