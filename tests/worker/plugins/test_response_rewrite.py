"""response-rewrite (plugins.md section 6)."""

import gzip
import threading
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.plugins.refusals import complaint
from worker.plugins import decoding, response_rewrite
from worker.plugins.testing import Outcome, PluginKit
from worker.variables.values import text_of


def answer(body: bytes = b"hello world", fields: dict[str, str] | None = None, status: str = "200 OK") -> bytes:
    """Compose what the upstream says."""
    given = {"Content-Type": "text/plain", "ETag": '"1"', "Last-Modified": "Sat, 21 Nov 2026 11:00:00 GMT"}
    lines = [f"{name}: {value}" for name, value in {**given, **(fields or {})}.items()]
    head = "\r\n".join([f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(body)}", "", ""])
    return head.encode() + body


def rewritten(config: dict[str, Any], upstream: bytes = b"", method: str = "GET") -> Outcome:
    """Return what the client gets."""
    with PluginKit({"response-rewrite": config}) as kit:
        kit.upstream_answers = upstream or answer()
        return kit.request(method, "/a?x=1")


def test_nothing_is_changed_by_nothing() -> None:
    got = rewritten({})
    assert (got.status, got.body, got.header("etag"), got.header("content-length")) == (
        200,
        b"hello world",
        '"1"',
        "11",
    )


def test_status_code() -> None:
    got = rewritten({"status_code": 418})
    assert (got.line, got.body, got.header("etag")) == ("HTTP/1.1 418 I'm a Teapot", b"hello world", '"1"')


@pytest.mark.parametrize(
    ("config", "body"),
    [
        ({"body": "new"}, b"new"),
        ({"body": ""}, b""),
        ({"body": b64encode(b"\0\xff").decode(), "body_base64": True}, b"\0\xff"),
    ],
)
def test_body(config: dict[str, Any], body: bytes) -> None:
    got = rewritten(config, answer(gzip.compress(b"old"), {"Content-Encoding": "gzip"}))
    assert (got.body, got.header("content-length")) == (body, str(len(body)))
    for name in ("content-encoding", "etag", "last-modified"):
        assert got.header(name) is None


def test_headers() -> None:
    headers = {
        "add": ["X-Add: $remote_addr", "x-add:b:c", "X-Set: lost"],
        "set": {"X-Set": "$status", "X-Num": 7, "Content-Type": "text/html"},
        "remove": ["ETAG", "X-Gone"],
    }
    got = rewritten({"headers": headers}, answer(fields={"X-Add": "own", "x-set": "old", "X-Gone": "1", "X-Kept": "2"}))
    assert got.headers("x-add") == ["own", "127.0.0.1", "b:c"]
    assert got.headers("x-set") == ["200"]
    assert (got.header("x-num"), got.headers("content-type")) == ("7", ["text/html"])
    assert (got.header("etag"), got.header("x-gone"), got.header("x-kept")) == (None, None, "2")


def test_headers_that_are_no_add_set_or_remove_are_set() -> None:
    got = rewritten({"headers": {"X-A": "b", "ETag": "c"}})
    assert (got.headers("x-a"), got.headers("etag")) == (["b"], ["c"])


def test_a_value_brings_no_lines() -> None:
    with PluginKit({"response-rewrite": {"headers": {"X-A": "$arg_x"}}}) as kit:
        got = kit.request(target="/?x=a%0d%0aX-B:+c")
    assert (got.header("x-a"), got.header("x-b")) == ("a  X-B: c", None)


@pytest.mark.parametrize(
    ("expression", "status", "is_changed"),
    [
        ([["status", "==", 503]], "503 Service Unavailable", True),
        ([["status", "==", 503]], "200 OK", False),
        ([["sent_http_content_type", "~~", "^text/"]], "200 OK", True),
        ([["arg_x", "==", "2"]], "200 OK", False),
        ([["post_arg_a", "==", None]], "200 OK", True),
    ],
)
def test_vars(expression: list[Any], status: str, is_changed: bool) -> None:
    config = {"vars": expression, "body": "new", "status_code": 299, "headers": {"X-A": "b"}}
    got = rewritten(config, answer(status=status))
    expected = (299, b"new", "b") if is_changed else (int(status[:3]), b"hello world", None)
    assert (got.status, got.body, got.header("x-a")) == expected


@pytest.mark.parametrize(
    ("filters", "body"),
    [
        ([{"regex": "o", "replace": "0"}], b"hell0 world"),
        ([{"regex": "o", "replace": "0", "scope": "global"}], b"hell0 w0rld"),
        ([{"regex": "O", "replace": "0", "options": "i"}], b"hell0 world"),
        ([{"regex": "WORLD$", "replace": "", "options": "jio"}], b"hello "),
        ([{"regex": "world", "replace": "x", "options": "a"}], b"hello world"),
        ([{"regex": "(h)(.*)(d)", "replace": "$3${2}$1$$$9"}], b"dello worlh$"),
        ([{"regex": "hello", "replace": "bye"}, {"regex": "bye", "replace": "ciao"}], b"ciao world"),
        ([{"regex": "nothing", "replace": ""}], b"hello world"),
    ],
)
@pytest.mark.parametrize("coding", ["", "gzip", "br"])
def test_filters(filters: list[dict[str, str]], body: bytes, coding: str) -> None:
    encode = {"": bytes, "gzip": gzip.compress, "br": brotli.compress}[coding]
    got = rewritten(
        {"filters": filters}, answer(encode(b"hello world"), {"Content-Encoding": coding} if coding else {})
    )
    assert (got.body, got.header("content-length"), got.header("content-encoding")) == (body, str(len(body)), None)
    assert got.header("etag") is None


@pytest.mark.parametrize(
    ("body", "coding"),
    [(b"hello", "zstd"), (b"hello", "gzip"), (b"hello", "br"), (gzip.compress(b"o" * 2000, mtime=0), "gzip")],
)
def test_what_cannot_be_decoded_stays_as_it_is(body: bytes, coding: str) -> None:
    config = {"filters": [{"regex": "o", "replace": "0"}], "max_resp_body_size": 1000}
    got = rewritten(config, answer(body, {"Content-Encoding": coding}))
    assert (got.body, got.header("content-encoding")) == (body, coding)


def test_a_body_that_is_too_large_for_filters_stays_as_it_is() -> None:
    config = {"filters": [{"regex": "a", "replace": "b", "scope": "global"}], "max_resp_body_size": 1000}
    assert rewritten(config, answer(b"a" * 1001)).body == b"a" * 1001
    assert rewritten(config, answer(b"a" * 1000)).body == b"b" * 1000


def test_what_follows_a_gzip_is_not_lost() -> None:
    body = gzip.compress(b"hello") + gzip.compress(b"world")
    got = rewritten({"filters": [{"regex": "o", "replace": "0"}]}, answer(body, {"Content-Encoding": "gzip"}))
    assert (got.body, got.header("content-encoding")) == (body, "gzip")


LONG = "hällo €\n".encode() + "ä €\n".encode() * 40_000


@pytest.mark.parametrize("coding", ["", "gzip", "br"])
@pytest.mark.parametrize("is_long", [False, True])
def test_a_long_body_is_filtered_in_a_thread(monkeypatch: pytest.MonkeyPatch, coding: str, is_long: bool) -> None:
    threads = set()
    taken = decoding.text_in_steps

    def noted(pieces: Iterable[bytes], most: int) -> str:
        text = taken(pieces, most)
        threads.add(threading.get_ident())  # where it has come to an end
        return text

    monkeypatch.setattr(response_rewrite, "text_in_steps", noted)
    monkeypatch.setattr(response_rewrite, "THREAD_TIME", 60.0)
    encode = {"": bytes, "gzip": gzip.compress, "br": brotli.compress}[coding]
    body = LONG if is_long else b"h"
    fields = {"Content-Encoding": coding} if coding else {}
    got = rewritten({"filters": [{"regex": "h", "replace": "H", "scope": "global"}]}, answer(encode(body), fields))
    assert (got.body, got.header("content-encoding")) == (body.replace(b"h", b"H"), None)
    assert (threading.get_ident() in threads) is not is_long


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_no_step_of_decoding_makes_much(coding: str) -> None:
    body = b"\0" * 20_000_000
    encoded = gzip.compress(body) if coding == "gzip" else brotli.compress(body)
    steps = list(decoding.steps_by_coding()[coding.encode()](encoded))
    assert b"".join(steps) == body
    assert max(map(len, steps)) <= 2 * decoding.STEP
    with pytest.raises(OverflowError):
        decoding.text_in_steps(decoding.steps_by_coding()[coding.encode()](encoded), 1_000_000)


@given(st.binary(max_size=300), st.integers(1, 300))
def test_steps_do_not_change_a_text(body: bytes, size: int) -> None:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    text = decoding.text_in_steps(pieces, len(body))
    assert text == text_of(body)
    assert decoding.bytes_in_steps(text) == body


def test_a_body_in_pieces_is_filtered_as_a_whole() -> None:
    chunks = b"4\r\nhell\r\n7\r\no world\r\n0\r\n\r\n"
    upstream = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    got = rewritten({"filters": [{"regex": "hello", "replace": "bye"}]}, upstream)
    assert (got.body, got.header("content-length")) == (b"bye world", "9")


def test_a_search_that_takes_too_long_changes_nothing() -> None:
    body = b"a" * 5000 + b"!"
    assert rewritten({"filters": [{"regex": "(a+)+$", "replace": ""}]}, answer(body)).body == body


def test_answers_to_head_have_no_body() -> None:
    got = rewritten({"body": "new", "headers": {"X-A": "b"}}, answer(b""), "HEAD")
    assert (got.status, got.body, got.header("x-a")) == (200, b"", "b")


def test_answers_of_the_gateway_and_of_plugins() -> None:
    config = {"body": "new", "status_code": 200, "headers": {"X-A": "$status"}}
    abort = {"abort": {"http_status": 503, "body": "down"}}
    with PluginKit({"response-rewrite": config, "fault-injection": abort}) as kit:
        got = kit.request()
    assert (got.status, got.body, got.header("x-a"), got.upstream) == (200, b"new", "503", None)
    with PluginKit({"response-rewrite": config}, route={"upstream": {"nodes": {}}}) as kit:
        got = kit.request()
        assert (got.status, got.body) == (200, b"new")


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"status_code": 199}, ".status_code: "),
        ({"status_code": 599}, ".status_code: "),
        ({"body": "a", "filters": [{"regex": "a", "replace": "b"}]}, ".filters: "),
        ({"filters": []}, ".filters: "),
        ({"filters": [{"regex": "a"}]}, ".filters[0]"),
        ({"filters": [{"replace": "a"}]}, ".filters[0]"),
        ({"filters": [{"regex": "(", "replace": "a"}]}, ".filters[0].regex: "),
        ({"filters": [{"regex": "a", "replace": "a", "scope": "all"}]}, ".filters[0].scope: "),
        ({"filters": [{"regex": "a", "replace": "a", "options": "q"}]}, ".filters[0].options: "),
        ({"body_base64": True}, ".body: "),
        ({"body": "", "body_base64": True}, ".body: "),
        ({"body": "a", "body_base64": True}, ".body: "),
        ({"vars": [["a", "?", "b"]]}, ".vars"),
        ({"max_resp_body_size": 0}, ".max_resp_body_size: "),
        ({"headers": {"a b": "c"}}, ".headers"),
        ({"headers": {"Content-Length": 5}}, ".headers"),
        ({"headers": {"add": ["X-A"]}}, ".headers.add[0]: "),
        ({"headers": {"add": ["X A: b"]}}, ".headers.add"),
        ({"headers": {"set": {"X-A": "b"}, "X-B": "c"}}, ".headers"),
        ({"headers": {"set": {"X-A": "a\nb"}}}, ".headers.set"),
        ({"headers": {"remove": ["a b"]}}, ".headers.remove[0]: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("response-rewrite", config).startswith(fault)


@pytest.mark.parametrize("headers", [{}, [], {"add": {}, "set": [], "remove": {}}])
def test_empty_ones_are_accepted(headers: Any) -> None:
    assert complaint("response-rewrite", {"headers": headers, "vars": {}}) == ""
