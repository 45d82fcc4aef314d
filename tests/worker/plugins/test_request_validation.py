"""request-validation (plugins.md section 4)."""

import json
from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import Outcome, PluginKit

SCHEMA = {
    "type": "object",
    "required": ["a"],
    "properties": {
        "a": {"type": "string"},
        "n": {"type": "integer"},
        "d": {"type": "string", "default": "x"},
        "in": {"type": "object", "properties": {"e": {"default": [1]}}},
    },
}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def posted(body: bytes, headers: dict[str, str] | None = None, **config: Any) -> Outcome:
    with PluginKit({"request-validation": {"body_schema": SCHEMA, **config}}) as kit:
        return kit.request("POST", "/", headers, body)


def test_json_is_written_anew_with_its_defaults() -> None:
    answer = posted(b' { "a" : "b", "in": {} , "z": 1.5 } ')
    assert answer.status == 200
    assert answer.upstream is not None
    assert answer.upstream.body == b'{"a":"b","in":{"e":[1]},"z":1.5,"d":"x"}'
    assert answer.upstream.header("content-length") == str(len(answer.upstream.body))


@pytest.mark.parametrize("body", [b'{"n":1}', b'{"a":5}', b'{"a":"b","n":"1"}', b"[]", b"", b"{", b"\xff", b"a=b"])
def test_what_is_not_valid_is_refused_with_the_reason(body: bytes) -> None:
    answer = posted(body)
    assert (answer.status, answer.upstream) == (400, None)
    assert answer.body
    refused = posted(body, rejected_code=422, rejected_msg="no")
    assert (refused.status, refused.body) == (422, b"no")


def test_forms_are_objects_of_texts_and_go_on_as_they_are() -> None:
    answer = posted(b"a=b&c=%20", FORM)
    assert answer.status == 200
    assert answer.upstream is not None
    assert answer.upstream.body == b"a=b&c=%20"
    assert posted(b"a=b&n=1", FORM).status == 400
    assert posted(b"c=1", FORM).status == 400
    assert posted(b"a=b" + b"&c=1" * 500, FORM).status == 200
    assert posted(b"n=1" + b"&c=1" * 500, FORM).status == 400


def test_headers_are_keyed_in_lower_case() -> None:
    schema = {
        "type": "object",
        "required": ["x-a"],
        "properties": {"x-a": {"pattern": "^[0-9]+$"}, "host": {"enum": ["a.com"]}},
    }
    with PluginKit({"request-validation": {"header_schema": schema}}) as kit:
        assert kit.request(headers={"X-A": "12"}).status == 200
        assert kit.request(headers={"X-A": "1a"}).status == 400
        assert kit.request().status == 400
        assert kit.request(headers={"X-A": "12"}, host="b.com").status == 400


def test_a_repeated_content_type_is_refused() -> None:
    with PluginKit({"request-validation": {"body_schema": SCHEMA}}) as kit:
        headers = {"Content-Type": "application/json", "content-type": FORM["Content-Type"]}
        assert kit.request("POST", "/", headers, b'{"a":"b"}').status == 400


@pytest.mark.parametrize("is_valid", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
def test_large_bodies_are_validated_too(is_valid: bool, chunked: bool) -> None:
    body = json.dumps({"a": "b" if is_valid else 5, "z": ["x" * 50] * 40_000}).encode()
    sent, headers = body, {}
    if chunked:
        sent, headers = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), {"Transfer-Encoding": "chunked"}
    answer = posted(sent, headers)
    assert answer.status == (200 if is_valid else 400)
    if answer.upstream is not None:
        assert json.loads(answer.upstream.body) == {**json.loads(body), "d": "x"}
    else:
        assert b'is not of type "string"' in answer.body


@pytest.mark.parametrize("headers", [{}, {"Transfer-Encoding": "chunked"}])
def test_a_body_that_is_too_large_is_413(headers: dict[str, str]) -> None:
    body = b'{"a":"bbbbbbbbbbbbbbb"}'
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if headers else body
    assert posted(sent, headers, max_req_body_size=22).status == 413
    assert posted(sent, headers, max_req_body_size=23).status == 200


def test_who_has_had_the_body_read_up_to_less_hides_nothing() -> None:
    plugins = {"request-validation": {"body_schema": {"properties": {"a": {"maxLength": 1}}}}}
    more = {"vars": [["post_arg_c", "~=", "d"]]}
    with PluginKit(plugins, settings={"max_post_args_readable_size": 10}, route=more) as kit:
        sent = b"a=b" + b"b" * 20
        chunked = {**FORM, "Transfer-Encoding": "chunked"}
        assert kit.request("POST", "/", FORM, sent).status == 400
        assert kit.request("POST", "/", chunked, b"%x\r\n%b\r\n0\r\n\r\n" % (len(sent), sent)).status == 400


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, ": header_schema or body_schema must be given"),
        ({"body_schema": {"type": "x"}}, ".body_schema: "),
        ({"header_schema": {"required": 5}}, ".header_schema: "),
        ({"body_schema": {"$ref": "http://127.0.0.1:1/x"}}, ".body_schema: "),
        ({"body_schema": {"$ref": "file:///etc/passwd"}}, ".body_schema: "),
        ({"body_schema": {}, "rejected_code": 199}, ".rejected_code: "),
        ({"body_schema": {}, "rejected_msg": "x" * 257}, ".rejected_msg: "),
        ({"body_schema": {}, "max_req_body_size": 0}, ".max_req_body_size: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("request-validation", config).startswith(fault)
