"""request-id (plugins.md section 6)."""

import re
import time
from typing import Any
from uuid import UUID

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.request_id import _BASE62
from worker.plugins.testing import PluginKit

PATTERNS = {
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "uuidv7": r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "nanoid": r"[0-9A-Za-z_-]{21}",
    "ksuid": r"[0-9A-Za-z]{27}",
    "range_id": r"[0-9A-Za-z]{16}",
}


def test_upstream_and_client_are_told_the_same() -> None:
    with PluginKit({"request-id": {}}) as kit:
        first, second = kit.requests([("GET", "/", {}, b"")] * 2)
        seen = set()
        for answer in (first, second):
            assert answer.upstream is not None
            assert re.fullmatch(PATTERNS["uuid"], answer.upstream.header("x-request-id") or "")
            assert answer.headers("x-request-id") == answer.upstream.headers("x-request-id")
            seen.add(answer.header("x-request-id"))
        assert len(seen) == 2


@pytest.mark.parametrize("algorithm", PATTERNS)
def test_algorithms(algorithm: str) -> None:
    with PluginKit({"request-id": {"algorithm": algorithm}}) as kit:
        found = {kit.request().header("x-request-id") for _ in range(20)}
        assert len(found) == 20
        for id_ in found:
            assert re.fullmatch(PATTERNS[algorithm], id_ or "")


def test_what_has_the_time_in_front_tells_it() -> None:
    before = time.time()
    with PluginKit({"request-id": {"algorithm": "uuidv7"}}) as kit:
        uuid = UUID(kit.request().header("x-request-id"))
    with PluginKit({"request-id": {"algorithm": "ksuid"}}) as kit:
        number = 0
        for digit in kit.request().header("x-request-id") or "":
            number = number * 62 + _BASE62.index(digit)
    assert before - 1 <= (uuid.int >> 80) / 1000 <= time.time() + 1
    assert before - 1 <= (number >> 128) + 1_400_000_000 <= time.time() + 1


def test_range_id_is_made_of_what_is_given() -> None:
    config = {"algorithm": "range_id", "range_id": {"char_set": "abcdef", "length": 40}}
    with PluginKit({"request-id": config}) as kit:
        assert re.fullmatch("[abcdef]{40}", kit.request().header("x-request-id") or "")


def test_the_clients_own_is_kept() -> None:
    with PluginKit({"request-id": {"header_name": "X-Trace"}}) as kit:
        answer = kit.request(headers={"x-trace": "mine"})
        assert answer.upstream is not None
        assert answer.upstream.headers("x-trace") == ["mine"]
        assert answer.headers("x-trace") == ["mine"]
        assert answer.header("x-request-id") is None


def test_the_upstreams_own_stays_in_the_answer() -> None:
    with PluginKit({"request-id": {}}) as kit:
        kit.upstream_answers = b"HTTP/1.1 200 OK\r\nx-request-ID: its\r\nContent-Length: 0\r\n\r\n"
        assert kit.request().headers("x-request-id") == ["its"]


def test_answers_of_the_gateway_have_it_too() -> None:
    with PluginKit({"request-id": {}, "ip-restriction": {"blacklist": ["127.0.0.1"]}}) as kit:
        answer = kit.request()
        assert answer.status == 403
        assert re.fullmatch(PATTERNS["uuid"], answer.header("x-request-id") or "")


def test_the_client_need_not_be_told() -> None:
    with PluginKit({"request-id": {"include_in_response": False}}) as kit:
        answer = kit.request()
        assert answer.header("x-request-id") is None
        assert answer.upstream is not None
        assert answer.upstream.header("x-request-id") is not None


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"algorithm": "snowflake"}, ".algorithm: "),
        ({"header_name": ""}, ".header_name: "),
        ({"header_name": "a b"}, ".header_name: "),
        ({"header_name": "Content-Length"}, ".header_name: "),
        ({"header_name": "Host"}, ".header_name: "),
        ({"range_id": {"char_set": "abc"}}, ".range_id.char_set: "),
        ({"range_id": {"char_set": "abcdef\n"}}, ".range_id.char_set: "),
        ({"range_id": {"length": 5}}, ".range_id.length: "),
        ({"include_in_response": "no"}, ".include_in_response: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("request-id", config).startswith(fault)
