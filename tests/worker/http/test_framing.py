"""What framing reads in heads and chunked bodies, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.splitting import split
from worker.errors import BadRequest, ExpectationFailed, InvalidResponse, NotImplementedCoding
from worker.http.framing import (
    ChunkedDecoder,
    ChunkedError,
    RequestFields,
    ResponseFields,
    chunk,
    host_name,
    last_chunk,
)


def request_fields(*lines: bytes) -> RequestFields:
    return RequestFields(b"".join(b"\r\n" + line for line in lines) + b"\r\n\r\n")


def response_fields(*lines: bytes) -> ResponseFields:
    return ResponseFields(b"".join(b"\r\n" + line for line in lines) + b"\r\n\r\n")


def test_end_to_end_fields_keep_their_bytes_and_order() -> None:
    fields = request_fields(b"Host: a.B:80", b"X-One:  1 ", b"accept: */*", b"X-One: 2")
    assert fields.passed_on == b"X-One:  1 \r\naccept: */*\r\nX-One: 2\r\n"
    assert fields.host == b"a.B:80"
    assert fields.host_name == b"a.b"


def test_no_fields_at_all() -> None:
    fields = RequestFields(b"\r\n\r\n")
    assert fields.passed_on == b""
    assert not fields.has_host


def test_hop_by_hop_fields_and_those_that_connection_names_are_cut_out() -> None:
    fields = request_fields(
        b"Host: a",
        b"Connection: Close, X-Hop",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"TE: trailers",
        b"Upgrade: websocket",
        b"X-Kept: 1",
    )
    assert fields.passed_on == b"X-Kept: 1\r\n"
    assert fields.close
    assert not fields.keep_alive


def test_forwarded_fields_of_the_client_are_taken_out_and_the_chain_is_kept() -> None:
    fields = request_fields(
        b"Host: a",
        b"X-Forwarded-For: 1.1.1.1",
        b"x-forwarded-for: 2.2.2.2",
        b"X-Real-IP: 3.3.3.3",
        b"X-Forwarded-Proto: https",
        b"Forwarded: for=4.4.4.4",
    )
    assert fields.forwarded_for == b"1.1.1.1, 2.2.2.2"
    assert fields.passed_on == b""


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([b"Host: a", b"Host: a"], BadRequest),
        ([b"Host: a b"], BadRequest),
        ([b"Host: a/b"], BadRequest),
        ([b"Host: a@b"], BadRequest),
        ([b"Host: a:99999999"], BadRequest),
        ([b"Host: a", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], BadRequest),
        ([b"Host: a", b"Transfer-Encoding: chunked, identity"], BadRequest),
        ([b"Host: a", b"Transfer-Encoding: chunked, chunked"], BadRequest),
        ([b"Host: a", b"Transfer-Encoding: gzip, chunked"], NotImplementedCoding),
        ([b"Host: a", b"Expect: the-unexpected"], ExpectationFailed),
    ],
)
def test_refused_request_fields(lines: list[bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        request_fields(*lines)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (b"Example.COM", b"example.com"),
        (b"example.com:8080", b"example.com"),
        (b"[::1]:80", b"[::1]"),
        (b"127.0.0.1:1", b"127.0.0.1"),
        (b"", b""),
    ],
)
def test_host_name(host: bytes, name: bytes) -> None:
    assert host_name(host) == name


def test_response_fields() -> None:
    fields = response_fields(b"Server: x", b"Date: d", b"Content-Length: 12", b"Connection: keep-alive", b"ETag: e")
    assert fields.content_length == 12
    assert fields.has_date
    assert fields.keep_alive
    assert fields.passed_on == b"Date: d\r\nETag: e\r\n"


@pytest.mark.parametrize(
    "lines",
    [
        [b"Content-Length: 1", b"Content-Length: 2"],
        [b"Content-Length: -1"],
        [b"Content-Length: 1", b"Transfer-Encoding: chunked"],
        [b"Transfer-Encoding: gzip"],
    ],
)
def test_refused_response_fields(lines: list[bytes]) -> None:
    with pytest.raises(InvalidResponse):
        response_fields(*lines)


def decode(pieces: list[bytes]) -> tuple[bytes, bytes, ChunkedDecoder]:
    decoder = ChunkedDecoder()
    body = rest = b""
    for piece in pieces:
        if decoder.finished:
            rest += piece
            continue
        decoded, rest = decoder.feed(piece)
        body += decoded
    return body, rest, decoder


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_a_chunked_body_gives_the_same_bytes(chunks: list[bytes], cuts: list[int]) -> None:
    coded = b"".join(map(chunk, chunks)) + last_chunk(b"X-Sum: 1\r\n") + b"GET /next"
    body, rest, decoder = decode(split(coded, cuts))
    assert body == b"".join(chunks)
    assert rest == b"GET /next"
    assert decoder.finished
    assert decoder.trailers == b"X-Sum: 1\r\n"


def test_extensions_are_read_over_and_framing_trailers_dropped() -> None:
    body, _, decoder = decode([b'3;name="v"\r\nabc\r\n0\r\nContent-Length: 9\r\nHost: b\r\nX-T: 1\r\n\r\n'])
    assert body == b"abc"
    assert decoder.trailers == b"X-T: 1\r\n"


@pytest.mark.parametrize(
    "coded",
    [
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"+3\r\nabc\r\n",
        b"-1\r\n",
        b"0x3\r\nabc\r\n",
        b" 3\r\nabc\r\n",
        b"3 \r\nabc\r\n",
        b"3_0\r\n",
        b"\r\n",
        b"g\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabcX",
        b"ffffffffffffffff\r\n",
        b"1" * 300,
        b"3;a\x00b\r\nabc\r\n",
        b"0\r\nbad name: 1\r\n\r\n",
        b"0\r\nX: 1\n\r\n",
        b"0\r\n folded\r\n\r\n",
        b"0\r\n" + b"X-T: 1\r\n" * 3_000,
        b"0\r\n" + b"Host: a\r\n" * 3_000,
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_broken_chunks_are_refused(coded: bytes, step: int) -> None:
    with pytest.raises(ChunkedError):
        decode([coded[at : at + step] for at in range(0, len(coded), step)])


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoder(data: bytes) -> None:
    decoder = ChunkedDecoder()
    try:
        decoder.feed(data)
    except ChunkedError:
        assert not decoder.finished
