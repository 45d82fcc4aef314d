"""gzip and brotli (plugins.md section 6)."""

import asyncio
import gzip
import threading
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.plugins.refusals import complaint
from worker.plugins.brotli import BrotliCompressor
from worker.plugins.compression import accepts
from worker.plugins.gzip import GzipCompressor
from worker.plugins.testing import Outcome, PluginKit

TEXT = b"<p>hello world</p>" * 100
CODINGS = {"gzip": "gzip", "brotli": "br"}
DECODE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "brotli": brotli.decompress}
BOTH = pytest.mark.parametrize("name", ["gzip", "brotli"])


def answer(body: bytes = TEXT, fields: dict[str, str] | None = None, status: str = "200 OK") -> bytes:
    """Compose what the upstream says."""
    given = {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(body)), **(fields or {})}
    lines = [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode() + body


def compressed(name: str, config: dict[str, Any], upstream: bytes = b"", **more: Any) -> Outcome:
    """Return what a client gets that accepts the coding."""
    headers = {"Accept-Encoding": CODINGS[name], **more.pop("headers", {})}
    with PluginKit({name: config, **more.pop("plugins", {})}) as kit:
        kit.upstream_answers = upstream or answer()
        return kit.request(more.pop("method", "GET"), "/", headers)


@BOTH
def test_an_answer_is_compressed(name: str) -> None:
    got = compressed(name, {}, answer(fields={"ETag": '"1"', "Accept-Ranges": "bytes"}))
    assert got.header("content-encoding") == CODINGS[name]
    assert got.header("content-length") == str(len(got.body))
    assert DECODE[name](got.body) == TEXT
    assert len(got.body) < 200
    assert (got.header("etag"), got.header("accept-ranges"), got.header("vary")) == ('W/"1"', None, None)


@BOTH
@pytest.mark.parametrize(
    ("config", "upstream"),
    [
        ({}, answer(fields={"Content-Type": "text/plain"})),
        ({"types": ["text/plain", "application/json"]}, answer()),
        ({"types": "*"}, b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n" + b"a" * 30),
        ({}, answer(b"a" * 19)),
        ({"min_length": 2000}, answer()),
        ({}, answer(fields={"Content-Encoding": "zstd"})),
        ({}, answer(fields={"Cache-Control": "public, no-transform"})),
        ({}, answer(fields={"Content-Range": "bytes 0-1799/3000"}, status="206 Partial Content")),
    ],
)
def test_what_stays_as_it_is(name: str, config: dict[str, Any], upstream: bytes) -> None:
    got = compressed(name, {**config, "vary": True}, upstream)
    assert got.body == upstream.partition(b"\r\n\r\n")[2]
    assert got.header("content-encoding") in (None, "zstd")
    assert got.header("vary") is None


@BOTH
@pytest.mark.parametrize(
    ("config", "upstream"),
    [
        ({"types": ["text/plain", "Text/HTML"]}, answer()),
        ({"types": "*"}, answer(fields={"Content-Type": "image/x"})),
        ({}, answer(b"a" * 20)),
        ({"min_length": 1800}, answer()),
        ({}, answer(status="404 Not Found")),
    ],
)
def test_what_is_compressed(name: str, config: dict[str, Any], upstream: bytes) -> None:
    got = compressed(name, config, upstream)
    assert DECODE[name](got.body) == upstream.partition(b"\r\n\r\n")[2]


@BOTH
def test_vary(name: str) -> None:
    assert compressed(name, {"vary": True}).headers("vary") == ["Accept-Encoding"]
    assert compressed(name, {"vary": True}, headers={"Accept-Encoding": "x"}).headers("vary") == ["Accept-Encoding"]
    said = answer(fields={"Vary": "Cookie, accept-encoding"})
    assert compressed(name, {"vary": True}, said).headers("vary") == ["Cookie, accept-encoding"]


@BOTH
def test_clients_that_do_not_want_it(name: str) -> None:
    got = compressed(name, {}, headers={"Accept-Encoding": f"{CODINGS[name]};q=0"})
    assert (got.body, got.header("content-encoding")) == (TEXT, None)


@BOTH
@pytest.mark.parametrize("version", [None, 1.0, 1.1])
def test_http_version(name: str, version: float | None) -> None:
    async def ask(kit: PluginKit) -> bytes:
        client = kit.connect()
        client.data_received(b"GET / HTTP/1.0\r\nAccept-Encoding: %b\r\n\r\n" % CODINGS[name].encode())
        for _ in range(50):
            await asyncio.sleep(0)
        return client.transport._data  # type: ignore[attr-defined,no-any-return]

    with PluginKit({name: {} if version is None else {"http_version": version}}) as kit:
        kit.upstream_answers = answer()
        assert (b"Content-Encoding" in kit.run(ask(kit))) == (version == 1.0)


@BOTH
def test_the_answer_to_head(name: str) -> None:
    got = compressed(name, {}, answer()[: -len(TEXT)], method="HEAD")
    assert (got.status, got.body, got.header("content-encoding")) == (200, b"", None)


@BOTH
def test_other_plugins_see_the_body_as_it_is(name: str) -> None:
    plugins = {
        "echo": {"before_body": "before "},
        "response-rewrite": {"filters": [{"regex": "hello", "replace": "bye", "scope": "global"}]},
    }
    got = compressed(name, {"types": ["text/html"]}, plugins=plugins)
    assert DECODE[name](got.body) == b"before " + TEXT.replace(b"hello", b"bye")


def test_brotli_goes_before_gzip() -> None:
    with PluginKit({"gzip": {}, "brotli": {}}) as kit:
        kit.upstream_answers = answer()
        assert kit.request(headers={"Accept-Encoding": "gzip, br"}).header("content-encoding") == "br"
        assert kit.request(headers={"Accept-Encoding": "gzip"}).header("content-encoding") == "gzip"
        assert kit.request().header("content-encoding") is None


@BOTH
def test_answers_of_the_gateway(name: str) -> None:
    fault = {"fault-injection": {"abort": {"http_status": 200, "body": "x" * 300_000,
                                           "headers": {"Content-Type": "text/html"}}}}  # fmt: skip
    got = compressed(name, {}, plugins=fault)
    assert DECODE[name](got.body) == b"x" * 300_000
    assert got.upstream is None


@BOTH
def test_each_piece_is_sent_when_nobody_knows_the_length(name: str) -> None:
    """Whoever waits for an event gets it."""
    decoders: dict[str, Callable[[bytes], bytes]] = {
        "gzip": zlib.decompressobj(31).decompress,
        "brotli": brotli.Decompressor().process,
    }
    seen: list[bytes] = []

    async def ask(kit: PluginKit) -> None:
        client = kit.connect()
        client.data_received(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: %b\r\n\r\n" % CODINGS[name].encode())
        for _ in range(50):
            await asyncio.sleep(0)
        data: bytes = client.transport._data  # type: ignore[attr-defined]
        chunk = data.partition(b"\r\n\r\n")[2].split(b"\r\n", 1)
        seen.append(decoders[name](chunk[1][: int(chunk[0], 16)]))

    with PluginKit({name: {}}) as kit:
        kit.upstream_answers = (
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nev\r\n"
        )
        kit.run(ask(kit))
    assert seen == [b"ev"]


@BOTH
@pytest.mark.parametrize(("level", "size"), [(1, 100_000), (9, 100_000), (6, 20_000), (1, 200)])
def test_large_pieces_are_compressed_in_a_thread(name: str, level: int, size: int, monkeypatch: Any) -> None:
    kind: Any = {"gzip": GzipCompressor, "brotli": BrotliCompressor}[name]
    threads: list[str] = []
    compress = kind.compress

    def noted(self: Any, *arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return compress(self, *arguments)

    monkeypatch.setattr(kind, "compress", noted)
    body = bytes(range(256)) * (size // 256 + 1)
    got = compressed(name, {"comp_level": level}, answer(body[:size]))
    assert DECODE[name](got.body) == body[:size]
    is_long = {"gzip": size > (65_536 if level == 1 else 32_768), "brotli": size > (65_536 if level == 1 else 16_384)}
    assert (threads[0] != threading.main_thread().name) == is_long[name]


@pytest.mark.parametrize(
    ("field", "takes"),
    [
        (None, False), (b"", False), (b"gzip", True), (b"GZip", True), (b"deflate, gzip;q=0.5", True),
        (b"gzip; q=0", False), (b"gzip;q=0.000", False), (b"*", True), (b"*;q=0", False), (b"*, gzip;q=0", False),
        (b"br", False), (b"gzip;q=x", False), (b"gzipped", False), (b"identity, *;q=0.1", True),
    ],
)  # fmt: skip
def test_accept_encoding(field: bytes | None, takes: bool) -> None:
    assert accepts(field, b"gzip") is takes


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=400), max_size=8), st.sampled_from(["gzip", "brotli"]))
def test_whatever_the_pieces_it_can_be_read_again(pieces: list[bytes], name: str) -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n"
    got = compressed(name, {"comp_level": 9}, head + chunks + b"0\r\n\r\n")
    assert DECODE[name](got.body) == b"".join(pieces)


@pytest.mark.parametrize(
    ("name", "config", "fault"),
    [
        ("gzip", {"types": []}, ".types: "),
        ("gzip", {"types": "text/html"}, ".types: "),
        ("gzip", {"min_length": 0}, ".min_length: "),
        ("gzip", {"comp_level": 0}, ".comp_level: "),
        ("gzip", {"comp_level": 10}, ".comp_level: "),
        ("gzip", {"http_version": 2}, ".http_version: "),
        ("gzip", {"buffers": {"number": 0}}, ".buffers.number: "),
        ("gzip", {"vary": "yes"}, ".vary: "),
        ("brotli", {"mode": 3}, ".mode: "),
        ("brotli", {"comp_level": 12}, ".comp_level: "),
        ("brotli", {"lgwin": 9}, ".lgwin: "),
        ("brotli", {"lgwin": 25}, ".lgwin: "),
        ("brotli", {"lgblock": 15}, ".lgblock: "),
        ("brotli", {"http_version": 1.2}, ".http_version: "),
    ],
)
def test_what_cannot_be_is_refused(name: str, config: dict[str, Any], fault: str) -> None:
    assert complaint(name, config).startswith(fault)


@pytest.mark.parametrize("options", [{"mode": 2, "comp_level": 0, "lgwin": 0, "lgblock": 16}, {"lgwin": 24}])
def test_options_of_brotli(options: dict[str, int]) -> None:
    assert brotli.decompress(compressed("brotli", options).body) == TEXT


def test_without_its_library_brotli_refuses_requests(monkeypatch: Any) -> None:
    monkeypatch.setattr("worker.plugins.brotli.find_spec", lambda _: None)
    assert compressed("brotli", {}).status == 503
