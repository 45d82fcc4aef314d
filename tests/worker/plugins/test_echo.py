"""echo (plugins.md section 6)."""

from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit

TAGS = b'ETag: "x"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nContent-Encoding: br\r\n'
ANSWERS = [
    b"HTTP/1.1 200 OK\r\n" + TAGS + b"Content-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\n" + TAGS + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + TAGS + b"Connection: close\r\n\r\nhello",
]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    ("config", "body"),
    [
        ({"before_body": "<"}, b"<hello"),
        ({"after_body": ">"}, b"hello>"),
        ({"before_body": "<", "after_body": ">"}, b"<hello>"),
        ({"body": "new"}, b"new"),
        ({"body": ""}, b""),
        ({"before_body": "<", "body": "new\n", "after_body": ">"}, b"<new\n>"),
    ],
)
def test_bodies_are_wrapped_or_replaced(answer: bytes, config: dict[str, Any], body: bytes) -> None:
    with PluginKit({"echo": config}) as kit:
        kit.upstream_answers = answer
        outcome = kit.request()
        assert (outcome.status, outcome.body) == (200, body)
        assert outcome.header("etag") is None
        assert outcome.header("last-modified") is None
        assert outcome.header("content-encoding") == (None if "body" in config else "br")


def test_an_empty_body_is_wrapped_too() -> None:
    with PluginKit({"echo": {"before_body": "<", "after_body": ">"}}) as kit:
        kit.upstream_answers = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
        assert kit.request().body == b"<>"
        kit.upstream_answers = b"HTTP/1.1 204 No Content\r\n\r\n"
        answer = kit.request()
        assert (answer.status, answer.body) == (204, b"")


def test_the_answer_to_head_stays_without_a_body() -> None:
    with PluginKit({"echo": {"body": "new", "headers": {"X-A": "b"}}}) as kit:
        answer = kit.request("HEAD")
        assert (answer.status, answer.body, answer.header("x-a")) == (200, b"", "b")
        assert answer.header("content-length") != "2"


def test_headers_are_set() -> None:
    with PluginKit({"echo": {"body": "b", "headers": {"Content-Type": "text/css", "X-N": 7}}}) as kit:
        answer = kit.request()
        assert (answer.headers("content-type"), answer.headers("x-n")) == (["text/css"], ["7"])


def test_answers_of_the_gateway_are_changed_too() -> None:
    with PluginKit({"echo": {"before_body": "<"}, "ip-restriction": {"blacklist": ["127.0.0.1"]}}) as kit:
        answer = kit.request()
        assert (answer.status, answer.body) == (403, b'<{"message":"Your IP address is not allowed"}\n')


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, ": before_body, body or after_body must be given"),
        ({"headers": {"X-A": "b"}}, ": before_body, body or after_body must be given"),
        ({"body": 5}, ".body: "),
        ({"body": "b", "headers": {"a b": "c"}}, ".headers['a b']: "),
        ({"body": "b", "headers": {"Content-Length": 5}}, ".headers['Content-Length']: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("echo", config).startswith(fault)
