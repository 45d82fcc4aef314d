"""key-auth (plugins.md section 3)."""

from typing import Any, ClassVar

import pytest

from worker.edited_request import RepeatedRequest
from worker.exchange import Exchange
from worker.messages import Request
from worker.plugins.base import NoConfig, Plugin
from worker.plugins.testing import OK, PluginKit, UpstreamRequest

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


class Watching(Plugin[NoConfig]):
    """Notes the requests as others have left them."""

    name = "watching"
    seen: ClassVar[list[Request | None]] = []

    def access(self, exchange: Exchange) -> None:
        self.seen.append(exchange.request)


REWRITING = {
    "key-auth": {"hide_credentials": True},
    "proxy-rewrite": {"uri": "/new", "headers": {"set": {"X-A": "b"}}},
    "watching": {},
}


def test_what_a_head_becomes_is_kept_when_it_repeats() -> None:
    Watching.seen.clear()
    with PluginKit(REWRITING, JACK, extra=(Watching,)) as kit:
        answers = kit.requests([("GET", "/old", {"apikey": "auth-one"}, b"")] * 6)
        upstream = {
            (each.target, each.header("x-a"), each.header("x-consumer-username"), each.header("apikey"))
            for answer in answers
            if (each := answer.upstream)
        }
        assert upstream == {("/new", "b", "jack", None)}
        assert isinstance(Watching.seen[-1], RepeatedRequest)
        assert Watching.seen[-1] is Watching.seen[-2]


def test_a_head_that_repeats_is_from_whoever_has_its_key_by_then() -> None:
    came: list[UpstreamRequest] = []
    with PluginKit(REWRITING, JACK, extra=(Watching,)) as kit:

        def answered(request: UpstreamRequest) -> bytes:
            came.append(request)
            if len(came) == 6:
                kit.put("consumers/jack", {**JACK["consumers/jack"], "labels": {"custom_id": "7"}})
            if len(came) == 12:
                kit.put("consumers/jack", None)
            return OK

        kit.upstream_answers = answered
        answers = kit.requests([("GET", "/old", {"apikey": "auth-one"}, b"")] * 13)
        assert [each.headers("x-consumer-custom-id") for each in came] == [[]] * 6 + [["7"]] * 6
        assert [answer.status for answer in answers] == [200] * 12 + [401]
