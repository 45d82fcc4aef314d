"""The gateway's language: bodies, answers, lines."""

import base64
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.errors import StoreError
from config_sync.etcd.messages import (
    LineSplitter,
    prefix_end,
    range_body,
    read_error,
    read_line,
    read_range,
    watch_body,
)
from tests.fakes.splitting import split


def test_bodies_say_what_the_gateway_reads() -> None:
    assert json.loads(range_body(b"/a/", b"/a0", 1000)) == {
        "key": base64.b64encode(b"/a/").decode(),
        "range_end": base64.b64encode(b"/a0").decode(),
        "limit": 1000,
    }
    assert json.loads(range_body(b"k", b"l", 1, 7))["revision"] == "7"
    create = json.loads(watch_body(b"/a/", b"/a0", 5))["create_request"]
    assert create["start_revision"] == "5"
    assert create["watch_id"] == "1"
    assert create["fragment"] is True
    assert len(watch_body(b"/apisix/", b"/apisix0", 1 << 62)) <= 512


def test_prefix_end() -> None:
    assert prefix_end(b"/apisix/") == b"/apisix0"


def test_numbers_are_strings_and_zero_is_absent() -> None:
    line = read_line(
        b'{"result":{"header":{"cluster_id":"17237436991929493444","revision":"7"},"watch_id":"1","events":[{"kv":'
        b'{"key":"Yy8x","create_revision":"3","mod_revision":"7","version":"2","value":"eA=="}},{"type":"DELETE",'
        b'"kv":{"key":"Yy8y","mod_revision":"7"}}]}}'
    )
    assert line.result is not None
    put, deletion = line.result.events
    assert (put.type, put.kv.key, put.kv.value, put.kv.mod_revision, put.kv.version) == ("PUT", b"c/1", b"x", 7, 2)
    assert (deletion.type, deletion.kv.key) == ("DELETE", b"c/2")
    assert not line.result.created
    assert read_range(b'{"header":{"revision":"5"}}').kvs == []


def test_what_is_no_message() -> None:
    for line in (b"", b"[]", b'{"result":1}', b"\xff", b'{"result":{"events":[{"kv":{"key":"%%"}}]}}'):
        with pytest.raises(StoreError):
            read_line(line)
    assert read_error(b"404 page not found\n").message == "404 page not found"
    assert read_error(b'{"code":11,"message":"compacted"}').code == 11


@given(st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=8), st.lists(st.integers(0, 300)))
def test_any_split_gives_the_same_lines(lines: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    splitter = LineSplitter()
    found = [line for piece in split(stream, cuts) for line in splitter.feed(piece)]
    assert found == [line for line in lines if line]
    assert splitter.rest() == b"rest"


def test_a_line_of_27_mb_is_not_searched_again_and_again() -> None:
    splitter = LineSplitter()
    began = time.process_time()
    for _ in range(27_000):
        assert splitter.feed(b"x" * 1000) == []
    assert splitter.feed(b"\n") == [b"x" * 27_000_000]
    # Quadratic work would be 365 GB of searching: minutes, not seconds.
    assert time.process_time() - began < 20
