"""Variables of requests and clients, as in the tables of routing.md section 7."""

import re
import time
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.exchanges import exchange_of
from worker.exchange import Exchange
from worker.variables import Value, accessor, assign
from worker.variables.request import parse_arguments


def value(name: str, target: str = "/", *lines: str, **others: Any) -> Value | None:
    return accessor(name)(exchange_of(target, *lines, **others))


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [
        ("arg_a", "/?a=1", "1"),
        ("arg_a", "/?a=1&a=2", "1"),
        ("arg_a", "/?A=1", None),
        ("arg_a", "/?a=", ""),
        ("arg_a", "/?a", True),
        ("arg_a", "/?b=a=1", None),
        ("arg_a", "/", None),
        ("arg_a", "/?&&a=1#b", "1"),
        ("arg_a", "/?a=x%20y+z%zz", "x y z%zz"),
        ("arg_a b", "/?a%20b=1", "1"),
        ("arg_a-b", "/?a-b=1", "1"),
        ("arg_http_x", "/?http_x=1", "1"),
        ("arg_a", "/?a=%C3%BC", "ü"),
        ("uri", "/a//b/../c?d", "/a/c"),
        ("uri", "/a%20b", "/a b"),
        ("request_uri", "/a%20b?c=%20", "/a b?c=%20"),
        ("request_uri", "/a", "/a"),
        ("real_request_uri", "/a%20b?c", "/a%20b?c"),
        ("args", "/?a=1&b", "a=1&b"),
        ("query_string", "/?a#b", "a"),
        ("args", "/", None),
        ("is_args", "/?a", "?"),
        ("is_args", "/?", ""),
        ("is_args", "/", ""),
    ],
)
def test_target(name: str, target: str, expected: Value | None) -> None:
    assert value(name, target) == expected


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        ("http_x_a", ["X-A: 1"], "1"),
        ("http_x_a", ["x_a:1 \t"], "1"),
        ("http_X-A", ["x-a:  1"], "1"),
        ("http_x_a", ["X-A: 1", "Y: 2", "x-a: 3"], "1, 3"),
        ("http_x_a", ["X-A:"], ""),
        ("http_x_a", ["X-AB: 1"], None),
        ("http_x_a", ["B-X-A: 1"], None),
        ("http_x_a", ["Y: X-A: 1"], None),
        ("http_x_a", ["X-A: ü"], "ü"),
        ("http_x.a", ["x-a: 1"], None),
        ("http_host", [], "A.com:8080"),
        ("http_cookie", ["Cookie: a=1", "cookie: b=2"], "a=1; b=2"),
        ("cookie_a", ["Cookie: a=1; b=2"], "1"),
        ("cookie_b", ["Cookie: a=1", "Cookie: b=2;c"], "2"),
        ("cookie_A", ["Cookie: a=1"], None),
        ("cookie_a", ['Cookie: a="x%20=y"'], '"x%20=y"'),
        ("cookie_a", [], None),
        ("content_type", ["Content-Type: text/plain"], "text/plain"),
        ("content_length", ["Content-Length: 3"], "3"),
        ("content_length", [], None),
        ("http_x_forwarded_for", ["X-Forwarded-For: 10.0.0.1"], "10.0.0.1"),
        ("http_x_forwarded_proto", ["X-Forwarded-Proto: https"], "http"),
        ("http_x_forwarded_host", ["X-Forwarded-Host: b.com"], "a.com"),
        ("http_x_forwarded_port", [], "9080"),
        ("http_forwarded", ["Forwarded: for=1.2.3.4"], None),
    ],
)
def test_fields(name: str, lines: list[str], expected: Value | None) -> None:
    assert value(name, "/", *lines, host="A.com:8080") == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("host", "a.com"),
        ("method", "PUT"),
        ("request_method", "PUT"),
        ("scheme", "http"),
        ("https", ""),
        ("server_addr", "10.0.0.1"),
        ("server_port", "9080"),
        ("server_protocol", "HTTP/1.1"),
        ("remote_addr", "192.0.2.7"),
        ("remote_port", ""),
        ("realip_remote_addr", "127.0.0.1"),
        ("realip_remote_port", "40000"),
        ("connection", "7"),
        ("connection_requests", "3"),
        ("request_time", "1.500"),
        ("proxy_protocol_addr", None),
        ("ssl_server_name", None),
        ("consumer_name", None),
        ("route_id", None),
        ("status", None),
        ("upstream_addr", None),
        ("upstream_status", None),
        ("balancer_ip", None),
        ("upstream_http_x", None),
        ("sent_http_x", None),
        ("uri_param_x", None),
        ("no_such_variable", None),
        ("", None),
    ],
)
def test_of_the_connection_and_unknown(name: str, expected: Value | None) -> None:
    assert value(name, "/", host="A.com:8080", method="PUT") == expected


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("msec", r"\d{10,}\.\d{3}"),
        ("time_iso8601", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"),
        ("time_local", r"\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}"),
        ("request_id", r"[0-9a-f]{32}"),
        ("pid", r"\d+"),
        ("hostname", r".+"),
        ("request_length", r"\d+"),
    ],
)
def test_forms(name: str, form: str) -> None:
    assert re.fullmatch(form, str(value(name)))


def test_seconds_are_those_of_now() -> None:
    assert abs(float(str(value("msec"))) - time.time()) < 60


def test_a_request_has_one_id() -> None:
    exchange = exchange_of("/")
    assert accessor("request_id")(exchange) == accessor("request_id")(exchange)
    assert accessor("request_id")(exchange) != value("request_id")


def test_captures_are_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = exchange_of("/user/7")
    monkeypatch.setattr(Exchange, "captures", {"id": "7", ":ext": "x"})
    assert accessor("uri_param_id")(exchange) == "7"
    assert accessor("uri_param_:ext")(exchange) == "x"
    assert accessor("uri_param_name")(exchange) is None


def test_what_plugins_set() -> None:
    exchange = exchange_of("/")
    assign(exchange, "consumer_name", "jack")
    assert accessor("consumer_name")(exchange) == "jack"
    assert accessor("consumer_group_id")(exchange) is None


def test_the_query_is_parsed_once_for_a_head() -> None:
    exchange = exchange_of("/?a=1")
    assert exchange.request is not None
    accessor("arg_a")(exchange)
    parsed = exchange.request.arguments
    accessor("arg_b")(exchange)
    assert exchange.request.arguments is parsed


NAMES = st.text(alphabet="abc-_. ü%&=+", min_size=1, max_size=5)


@given(st.dictionaries(NAMES, NAMES, max_size=6))
def test_what_a_browser_encodes_is_read(fields: Mapping[str, str]) -> None:
    from urllib.parse import urlencode

    assert parse_arguments(urlencode(fields)) == fields
