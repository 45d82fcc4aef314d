"""cors (plugins.md section 4)."""

from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import Outcome, PluginKit

ORIGIN = "http://one.com"
OURS = ("allow-origin", "allow-methods", "max-age", "expose-headers", "allow-headers", "allow-credentials")


def ours(answer: Outcome) -> dict[str, str]:
    found = {name: answer.headers(f"access-control-{name}") for name in OURS}
    assert all(len(values) < 2 for values in found.values())
    return {name: values[0] for name, values in found.items() if values}


def asked(config: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> Outcome:
    with PluginKit({"cors": config}, **more) as kit:
        return kit.request(headers={"Origin": ORIGIN} if headers is None else headers)


def test_defaults_allow_everything() -> None:
    answer = asked({})
    assert (answer.status, answer.body) == (200, b"ok")
    assert ours(answer) == {"allow-origin": "*", "allow-methods": "*", "max-age": "5", "allow-headers": "*"}
    assert answer.header("vary") is None
    assert answer.header("timing-allow-origin") is None
    assert ours(asked({}, {}))["allow-origin"] == "*"


def test_every_field_is_sent() -> None:
    config = {
        "allow_origins": f"http://two.com,{ORIGIN}",
        "allow_methods": "GET,POST",
        "allow_headers": "x-a,x-b",
        "expose_headers": "x-c",
        "max_age": -1,
        "allow_credential": True,
    }
    answer = asked(config)
    assert ours(answer) == {
        "allow-origin": ORIGIN,
        "allow-methods": "GET,POST",
        "allow-headers": "x-a,x-b",
        "expose-headers": "x-c",
        "max-age": "-1",
        "allow-credentials": "true",
    }
    assert answer.headers("vary") == ["Origin"]


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://three.com"}, {"Origin": "http://one.com.evil.com"}])
def test_who_is_not_in_the_list_gets_no_fields_but_is_served(headers: dict[str, str]) -> None:
    answer = asked({"allow_origins": ORIGIN}, headers)
    assert (answer.status, answer.body, ours(answer)) == (200, b"ok", {})
    assert answer.headers("vary") == ["Origin"]


def test_two_asterisks_echo() -> None:
    config = {"allow_origins": "**", "allow_methods": "**", "allow_headers": "**", "allow_credential": True}
    answer = asked(config, {"Origin": ORIGIN, "Access-Control-Request-Headers": "x-a, x-b"})
    assert ours(answer) == {
        "allow-origin": ORIGIN,
        "allow-methods": "GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE",
        "allow-headers": "x-a, x-b",
        "max-age": "5",
        "allow-credentials": "true",
    }
    without = ours(asked(config, {}))
    assert without["allow-origin"] == "*"
    assert "allow-headers" not in without


@pytest.mark.parametrize(("origin", "allowed"), [("http://a.test.com", True), (ORIGIN, False), (None, False)])
def test_regular_expressions_count_alone(origin: str | None, allowed: bool) -> None:
    config = {"allow_origins": ORIGIN, "allow_origins_by_regex": [r".*\.none$", r"\.test\.com$"]}
    answer = asked(config, {"Origin": origin} if origin else {})
    assert ours(answer).get("allow-origin") == (origin if allowed else None)


def test_origins_by_metadata_follow_the_metadata() -> None:
    config = {"allow_origins": "http://x.com", "allow_origins_by_metadata": ["first", "missing"]}
    records = {"plugin_metadata/cors": {"allow_origins": {"first": f"{ORIGIN},http://two.com"}}}
    with PluginKit({"cors": config}, records) as kit:
        assert ours(kit.request(headers={"Origin": ORIGIN}))["allow-origin"] == ORIGIN
        assert ours(kit.request(headers={"Origin": "http://x.com"}))["allow-origin"] == "http://x.com"
        assert ours(kit.request(headers={"Origin": "http://y.com"})) == {}
        kit.put("plugin_metadata/cors", {"allow_origins": {"first": "http://y.com"}})
        assert ours(kit.request(headers={"Origin": ORIGIN})) == {}
        assert ours(kit.request(headers={"Origin": "http://y.com"}))["allow-origin"] == "http://y.com"


@pytest.mark.parametrize(
    ("config", "sent"),
    [
        ({"timing_allow_origins": "*"}, "*"),
        ({"timing_allow_origins": ORIGIN}, ORIGIN),
        ({"timing_allow_origins": "http://two.com"}, None),
        ({"timing_allow_origins": "http://two.com", "timing_allow_origins_by_regex": ["one"]}, ORIGIN),
    ],
)
def test_timing(config: dict[str, Any], sent: str | None) -> None:
    assert asked(config).header("timing-allow-origin") == sent


def test_every_options_request_is_answered_before_anybody_is_asked_who_they_are() -> None:
    with PluginKit({"cors": {}, "uri-blocker": {"block_rules": ["."]}}) as kit:
        answer = kit.request("OPTIONS", headers={"Origin": ORIGIN})
        assert (answer.status, answer.body, answer.upstream) == (200, b"", None)
        assert ours(answer)["allow-origin"] == "*"
        assert kit.request("OPTIONS").status == 200


def test_fields_of_the_upstream_are_replaced_and_answers_of_the_gateway_have_them() -> None:
    with PluginKit({"cors": {"allow_origins": "**"}}) as kit:
        kit.upstream_answers = (
            b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: http://u\r\naccess-control-allow-headers: u\r\n"
            b"Vary: Accept\r\nContent-Length: 2\r\n\r\nok"
        )
        answer = kit.request(headers={"Origin": ORIGIN})
        assert ours(answer)["allow-origin"] == ORIGIN
        assert ours(answer)["allow-headers"] == "*"
        assert answer.headers("vary") == ["Accept", "Origin"]
    with PluginKit({"cors": {}, "ip-restriction": {"whitelist": ["10.0.0.1"]}}) as kit:
        answer = kit.request(headers={"Origin": ORIGIN})
        assert (answer.status, ours(answer)["allow-origin"]) == (403, "*")


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"allow_credential": True}, "allow_origins"),
        ({"allow_credential": True, "allow_origins": "**"}, "allow_methods"),
        ({"allow_credential": True, "allow_origins": "**", "allow_methods": "**"}, "allow_headers"),
        (
            {"allow_credential": True, "allow_origins": "**", "allow_methods": "**", "allow_headers": "**"}
            | {"expose_headers": "*"},
            "expose_headers",
        ),
        ({"allow_origins_by_regex": ["("]}, "allow_origins_by_regex[0]"),
        ({"allow_origins_by_regex": []}, "allow_origins_by_regex"),
        ({"timing_allow_origins_by_regex": ["("]}, "timing_allow_origins_by_regex[0]"),
        ({"max_age": "5"}, "max_age"),
        ({"expose_headers": "a\r\nb: c"}, "expose_headers"),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], path: str) -> None:
    assert complaint("cors", config).startswith(f".{path}: ")
