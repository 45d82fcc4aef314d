"""mocking (plugins.md section 6)."""

import time
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit

SCHEMA = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "name": {"type": "string", "example": "Ann & Co"},
        "size": {"type": "number"},
        "is_old": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "of": {"properties": {"kind": {"enum": ["a", "b"]}, "nothing": {"type": "null"}}},
    },
}


def test_an_example_is_answered_as_it_is() -> None:
    with PluginKit({"mocking": {"response_example": '{"at":"$uri","x":"$arg_x"}'}}) as kit:
        answer = kit.request(target="/p?x=1")
        assert (answer.status, answer.body, answer.upstream) == (200, b'{"at":"/p","x":"1"}', None)
        assert answer.header("content-type") == "application/json;charset=utf8"
        assert answer.header("x-mock-by") == "APISIX/3.18.0"


def test_every_field() -> None:
    config = {
        "response_example": "<a/>",
        "response_status": 404,
        "content_type": "text/xml",
        "with_mock_header": False,
        "response_headers": {"X-A": "b", "X-N": 5},
        "delay": 1,
    }
    with PluginKit({"mocking": config}) as kit:
        began = time.monotonic()
        answer = kit.request()
        assert time.monotonic() - began >= 1
        assert (answer.status, answer.body) == (404, b"<a/>")
        assert answer.headers("content-type") == ["text/xml"]
        assert answer.header("x-mock-by") is None
        assert (answer.header("x-a"), answer.header("x-n")) == ("b", "5")


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_a_schema_makes_data(content_type: str) -> None:
    with PluginKit({"mocking": {"response_schema": SCHEMA, "content_type": content_type}}) as kit:
        bodies = set()
        for _ in range(10):
            answer = kit.request()
            bodies.add(answer.body)
            data = answer.json()
            assert list(data) == list(SCHEMA["properties"])
            assert type(data["id"]) is int
            assert data["name"] == "Ann & Co"
            assert type(data["size"]) in (float, int)
            assert type(data["is_old"]) is bool
            assert 1 <= len(data["tags"]) <= 3
            assert all(isinstance(tag, str) and tag for tag in data["tags"])
            assert data["of"]["kind"] in ("a", "b")
            assert data["of"]["nothing"] is None
        assert len(bodies) == 10


def test_data_in_xml() -> None:
    with PluginKit({"mocking": {"response_schema": SCHEMA, "content_type": "application/xml"}}) as kit:
        data = ElementTree.fromstring(kit.request().body)
        assert data.tag == "data"
        assert data.findtext("name") == "Ann & Co"
        assert data.findtext("is_old") in ("true", "false")
        assert 1 <= len(data.findall("tags")) <= 3
        assert data.findtext("of/kind") in ("a", "b")


def test_arrays_in_arrays_stay_small() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(20):
        schema = {"type": "array", "items": schema}
    with PluginKit({"mocking": {"response_schema": schema}}) as kit:
        assert len(kit.request().body) < 27 * 60 * 6


def test_it_answers_in_access() -> None:
    with PluginKit({"mocking": {"response_example": "m"}, "uri-blocker": {"block_rules": ["/no"]}}) as kit:
        assert kit.request(target="/no").status == 403
        assert kit.request("HEAD").status == 200


def deep() -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(40):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, ": response_example or response_schema must be given"),
        ({"response_schema": {"type": "date"}}, ".response_schema.type: "),
        ({"response_schema": {"properties": {"a": {"type": "x"}}}}, ".response_schema.properties['a'].type: "),
        ({"response_schema": {"items": 5}}, ".response_schema.items: "),
        ({"response_schema": deep()}, ".response_schema.items"),
        ({"response_example": "", "content_type": "image/png"}, ".content_type: "),
        ({"response_example": "", "content_type": "text/plain;\r\na: b"}, ".content_type: "),
        ({"response_example": "", "response_status": 99}, ".response_status: "),
        ({"response_example": "", "delay": -1}, ".delay: "),
        ({"response_example": "", "response_headers": {"a b": "c"}}, ".response_headers"),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("mocking", config).startswith(fault)
