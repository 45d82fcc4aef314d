"""redirect (plugins.md section 6)."""

from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import Outcome, PluginKit


def redirected(config: dict[str, Any], target: str = "/a/b?x=1", method: str = "GET", **more: Any) -> Outcome:
    """Return the answer."""
    with PluginKit({"redirect": config}, settings=more.pop("settings", None)) as kit:
        return kit.request(method, target, **more)


@pytest.mark.parametrize(
    ("config", "target", "location"),
    [
        ({"uri": "/new"}, "/a?x=1", "/new"),
        ({"uri": "https://b.com/$arg_x/c?d=e"}, "/a?x=1", "https://b.com/1/c?d=e"),
        ({"uri": "$uri/"}, "/a%20b", "/a b/"),
        ({"uri": "/new", "append_query_string": True}, "/a?x=1&y", "/new?x=1&y"),
        ({"uri": "/new?z", "append_query_string": True}, "/a?x=1&y", "/new?z&x=1&y"),
        ({"uri": "/new", "append_query_string": True}, "/a", "/new"),
        ({"uri": "$uri/", "encode_uri": True}, "/a%20b%3F", "/a%20b?/"),
        ({"uri": "https://[::1]:8/$uri", "encode_uri": True}, "/%C3%A4", "https://[::1]:8//%C3%A4"),
        ({"regex_uri": ["^/a/(.*)$", "/b/$1"]}, "/a/c?x=1", "/b/c"),
        ({"regex_uri": ["^/a/(.*)$", "http://b.com/${1}?q=$1"], "append_query_string": True}, "/a/c?x=1",
         "http://b.com/c?q=c&x=1"),
    ],
)  # fmt: skip
def test_location(config: dict[str, Any], target: str, location: str) -> None:
    answer = redirected(config, target)
    assert (answer.status, answer.header("location"), answer.upstream) == (302, location, None)
    assert b"<h1>302 Found</h1>" in answer.body
    assert answer.header("content-type") == "text/html; charset=utf-8"


def test_a_path_without_the_pattern_goes_on() -> None:
    answer = redirected({"regex_uri": ["^/x/(.*)$", "/b/$1"]})
    assert (answer.status, answer.body) == (200, b"ok")


def test_ret_code() -> None:
    assert redirected({"uri": "/new", "ret_code": 301}).status == 301
    answer = redirected({"uri": "/new", "ret_code": 200})
    assert (answer.status, answer.body, answer.header("location")) == (200, b"", "/new")


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 301), ("HEAD", 301), ("POST", 308), ("DELETE", 308), ("OPTIONS", 308)]
)
def test_http_to_https(method: str, status: int) -> None:
    answer = redirected({"http_to_https": True, "ret_code": 307}, "/a%20b?x=1", method, host="A.com:8080")
    assert (answer.status, answer.header("location")) == (status, "https://a.com/a%20b?x=1")
    assert answer.upstream is None


@pytest.mark.parametrize(("port", "written"), [(8443, ":8443"), (443, "")])
def test_the_port_for_https(port: int, written: str) -> None:
    settings = {"plugin_attr": {"redirect": {"https_port": port}}}
    assert redirected({"http_to_https": True}, "/", settings=settings).header("location") == f"https://a.com{written}/"


def test_a_port_that_is_none_refuses_requests() -> None:
    settings = {"plugin_attr": {"redirect": {"https_port": "x"}}}
    assert redirected({"http_to_https": True}, "/", settings=settings).status == 503


def test_who_is_believed_that_he_came_by_https() -> None:
    headers = {"X-Forwarded-Proto": "https"}
    assert redirected({"http_to_https": True}, headers=headers).status == 301
    trusting = {"trusted_addresses": ["127.0.0.1"]}
    assert redirected({"http_to_https": True}, headers=headers, settings=trusting).status == 200
    assert redirected({"http_to_https": True}, headers={}, settings=trusting).status == 301


def test_http_to_https_that_is_false_does_nothing() -> None:
    assert redirected({"http_to_https": False}).status == 200


def test_a_value_brings_no_lines() -> None:
    answer = redirected({"uri": "/$arg_x"}, "/?x=a%0d%0aX-B:+c")
    assert (answer.header("location"), answer.header("x-b")) == ("/a  X-B: c", None)


def test_a_search_that_takes_too_long() -> None:
    answer = redirected({"regex_uri": ["^/(a+)+$", "/x"]}, f"/{'a' * 3000}!")
    assert (answer.status, list(answer.json()), answer.upstream) == (500, ["error_msg"], None)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, ": exactly one of"),
        ({"ret_code": 302}, ": exactly one of"),
        ({"uri": "/a", "regex_uri": ["a", "b"]}, ": exactly one of"),
        ({"uri": "/a", "http_to_https": True}, ": exactly one of"),
        ({"uri": ""}, ".uri: "),
        ({"uri": "/a", "ret_code": 199}, ".ret_code: "),
        ({"uri": "/a", "ret_code": 600}, ".ret_code: "),
        ({"regex_uri": []}, ": exactly one of"),
        ({"regex_uri": ["a"]}, ".regex_uri: "),
        ({"regex_uri": ["(", "a"]}, ".regex_uri[0]: "),
        ({"regex_uri": ["a", "b", "c", "d"]}, ".regex_uri: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("redirect", config).startswith(fault)
