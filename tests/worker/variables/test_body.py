"""Variables of bodies: which fields are found, and when a body is asked for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.settings import Settings
from tests.fakes.exchanges import exchange_of, with_body
from worker.errors import BodyNeeded
from worker.variables import accessor, body

FORM = "application/x-www-form-urlencoded"
JSON = "application/json; charset=utf-8"
MULTIPART = 'multipart/form-data; boundary="xYz"'
PARTS = (
    b'--xYz\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n2\r\n'
    b'--xYz\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\nContent-Type: text/plain\r\n\r\nfile\r\n'
    b'--xYz\r\nContent-Disposition: form-data; name="a"\r\n\r\nother\r\n--xYz--\r\n'
)
DOCUMENT = b'{"model": "m", "n": 5, "on": true, "no": null, "a": {"b": [1, 2], "c": {"d": "x"}},'
DOCUMENT += b'"messages": [{"role": "user", "content": "hi"}, {"role": "system", "content": "ho"}]}'


@pytest.mark.parametrize(
    ("name", "content_type", "body", "expected"),
    [
        ("post_arg_a", FORM, b"a=1&a=2&b=x+y%20z", "1"),
        ("post_arg_b", FORM + "; charset=utf-8", b"a=1&b=x+y%20z", "x y z"),
        ("post_arg_c", FORM, b"a=1&c", True),
        ("post_arg_d", FORM, b"a=1", None),
        ("post_arg_a", JSON, b'{"a": "1"}', None),
        ("post_arg_a", "text/plain", b"a=1", None),
        ("post_arg.a", FORM, b"a=1", "1"),
        ("post_arg.model", JSON, DOCUMENT, "m"),
        ("post_arg.n", JSON, DOCUMENT, 5),
        ("post_arg.on", JSON, DOCUMENT, True),
        ("post_arg.no", JSON, DOCUMENT, None),
        ("post_arg.a.c.d", JSON, DOCUMENT, "x"),
        ("post_arg.a.b", JSON, DOCUMENT, [1, 2]),
        ("post_arg.a.b.0", JSON, DOCUMENT, None),
        ("post_arg.a.x.d", JSON, DOCUMENT, None),
        ("post_arg.messages[*].role", JSON, DOCUMENT, ["user", "system"]),
        ("post_arg.messages[1].content", JSON, DOCUMENT, ["ho"]),
        ("post_arg.a..d", JSON, DOCUMENT, ["x"]),
        ("post_arg.a.*.d", JSON, DOCUMENT, ["x"]),
        ("post_arg.x[*].y", JSON, DOCUMENT, None),
        ("post_arg.messages[", JSON, DOCUMENT, None),
        ("post_arg.a", JSON, b"{", None),
        ("post_arg.a", JSON, b"[" * 100_000, None),
        ("post_arg.a", JSON, b"[1]", None),
        ("post_arg.[*]", JSON, b"[1]", [1]),
        ("post_arg.a", JSON, b"\xff", None),
        ("post_arg.a", "text/plain", b'{"a": 1}', None),
        ("post_arg.a", MULTIPART, PARTS, "1\r\n2"),
        ("post_arg.f", MULTIPART, PARTS, "file"),
        ("post_arg.g", MULTIPART, PARTS, None),
        ("post_arg.a", MULTIPART, PARTS[:-10], None),
        ("post_arg.a", "multipart/form-data", PARTS, None),
        ("request_body", "text/plain", b"\xc3\xbc", "ü"),
        ("request_body", "text/plain", b"", None),
        ("request_length", FORM, b"12345", "105"),
    ],
)
def test_fields(name: str, content_type: str, body: bytes, expected: Any) -> None:
    found = accessor(name)(with_body(content_type, body))
    assert found == expected
    assert type(found) is type(expected)


def test_too_many_fields_are_not_read() -> None:
    assert accessor("post_arg_a")(with_body(FORM, b"a=1" + b"&b" * (body.MOST_FIELDS - 1))) == "1"
    assert accessor("post_arg_a")(with_body(FORM, b"a=1" + b"&b" * body.MOST_FIELDS)) is None


LENGTH = "Content-Length: 100"


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("post_arg_a", [f"Content-Type: {FORM}", LENGTH]),
        ("post_arg.a", [f"Content-Type: {JSON}", "Transfer-Encoding: chunked"]),
        ("request_body", [LENGTH]),
        ("graphql_name", [LENGTH]),
    ],
)
def test_a_body_that_has_not_been_read_is_asked_for(name: str, lines: list[str]) -> None:
    with pytest.raises(BodyNeeded) as caught:
        accessor(name)(exchange_of("/", *lines, method="POST"))
    assert caught.value.limit == 1 << 20


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("post_arg_a", ["Content-Type: text/plain", LENGTH]),
        ("post_arg.a", ["Content-Type: text/plain", LENGTH]),
        ("post_arg_a", [f"Content-Type: {FORM}"]),
        ("post_arg_a", [f"Content-Type: {FORM}", "Content-Length: 1000"]),
        ("request_body", []),
    ],
)
def test_no_body_is_asked_for_that_cannot_be_read(name: str, lines: list[str]) -> None:
    settings = Settings(max_post_args_readable_size=999)
    assert accessor(name)(exchange_of("/", *lines, method="POST", settings=settings)) is None


def test_no_body_is_asked_for_once_the_answer_has_begun() -> None:
    exchange = exchange_of("/", f"Content-Type: {FORM}", LENGTH, method="POST")
    exchange.status = 200
    assert accessor("post_arg_a")(exchange) is None


def test_a_body_above_the_limit_is_not_read() -> None:
    assert accessor("post_arg_a")(with_body(FORM, b"a=123", Settings(max_post_args_readable_size=4))) is None
    assert accessor("post_arg_a")(with_body(FORM, b"a=123", Settings(max_post_args_readable_size=0))) == "123"


def test_without_a_limit_any_body_is_asked_for() -> None:
    with pytest.raises(BodyNeeded):
        accessor("request_body")(
            exchange_of("/", f"Content-Length: {1 << 40}", settings=Settings(max_post_args_readable_size=0))
        )


def test_a_body_is_parsed_once() -> None:
    exchange = with_body(JSON, b'{"a": {"b": 1}}')
    first = accessor("post_arg.a")(exchange)
    assert accessor("post_arg.a")(exchange) is first


def test_of_a_large_object_only_what_is_asked_for_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[bytes] = []
    parse_json = body.parse_json

    def building(raw: bytes) -> Any:
        built.append(bytes(raw))
        return parse_json(raw)

    monkeypatch.setattr(body, "parse_json", building)
    filling = b", ".join(b'"f%d": [1, {"x": "y"}]' % at for at in range(body.MOST_BUILT // 16))
    document = b'{"model": "m", "deep": {"er": 7}, "none": null, %b, "model": "last"}' % filling
    assert len(document) > body.MOST_BUILT
    exchange = with_body(JSON, document)
    assert accessor("post_arg.model")(exchange) == "last"
    assert accessor("post_arg.model")(exchange) == "last"
    assert accessor("post_arg.deep.er")(exchange) == 7
    assert accessor("post_arg.none")(exchange) is None
    assert accessor("post_arg.missing.er")(exchange) is None
    assert built == [b'"last"', b'{"er": 7}', b"null"]
    assert accessor("post_arg.f3[1].x")(exchange) == ["y"]
    assert accessor("post_arg.model")(exchange) == "last"


@pytest.mark.parametrize(
    "spoilt", [b'{"a": 1, "b": [%b}', b'{"a": 1, "b": "\xff", "c": [%b]}', b'[{"a": 1}, %b]', b"[%b"]
)
def test_a_large_body_that_is_no_object_has_no_members(spoilt: bytes) -> None:
    filling = b"1, " * (body.MOST_BUILT // 3) + b"1"
    assert accessor("post_arg.a")(with_body(JSON, spoilt % filling)) is None
    if spoilt.startswith(b"[{"):
        assert accessor("post_arg.[0].a")(with_body(JSON, spoilt % filling)) == [1]


@given(st.binary(max_size=200), st.sampled_from([FORM, JSON, MULTIPART, "application/graphql"]))
def test_no_body_is_too_strange(body: bytes, content_type: str) -> None:
    exchange = with_body(content_type, body)
    for name in ("post_arg_a", "post_arg.a", "post_arg..*", "post_arg.[*]", "graphql_root_fields", "request_body"):
        accessor(name)(exchange)
