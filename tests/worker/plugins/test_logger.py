"""What loggers have in common: entries, forms of one's own, bodies (plugins.md section 7)."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worker.plugins.receivers import TcpReceiver, entries, flush
from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit


class Bench:
    """A kit with tcp-logger, and what it has sent."""

    def __init__(self, config: dict[str, Any], records: dict[str, Any] | None = None, **more: Any) -> None:
        self.receiver = TcpReceiver()
        self.kit = PluginKit()
        self.kit.run(self.receiver.start())
        logger = {"tcp-logger": {"host": "127.0.0.1", "port": self.receiver.port, **config}}
        upstream = {"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}}
        plugins = {**logger, **more.pop("plugins", {})}
        for key, value in (records or {}).items():
            self.kit.put(key, value)
        self.kit.put("routes/kit", {"uri": "/*", "upstream": upstream, "plugins": plugins, **more})

    def logged(self) -> Any:
        """Return the only entry."""
        flush(self.kit)
        found = entries(self.receiver.received)
        assert len(found) == 1
        return found[0]

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.kit.run(self.receiver.stop())
        self.kit.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench({}) as made:
        yield made


def test_the_default_entry(bench: Bench) -> None:
    answer = bench.kit.request("POST", "/p?a=1&b", {"X-A": "1", "x-a": "2"}, b"12345")
    entry = bench.logged()
    headers = {"host": "a.com", "x-a": ["1", "2"], "content-length": "5"}
    size = entry["request"].pop("size")
    assert entry["request"] == {
        "url": "http://a.com:9080/p?a=1&b",
        "uri": "/p?a=1&b",
        "method": "POST",
        "headers": headers,
        "querystring": {"a": "1", "b": True},
    }
    assert size == len("POST /p?a=1&b HTTP/1.1\r\nHost: a.com\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 5\r\n\r\n12345")
    assert entry["response"]["status"] == 200
    assert entry["response"]["headers"]["content-type"] == "text/plain"
    assert entry["response"]["size"] > len(answer.body)
    assert set(entry["server"]) == {"hostname", "version"}
    assert (entry["upstream"], entry["route_id"], entry["service_id"]) == ("127.0.0.1:1980", "kit", "")
    assert entry["client_ip"] == "127.0.0.1"
    assert entry["latency"] >= entry["upstream_latency"] >= 0
    assert entry["apisix_latency"] >= 0
    assert entry["start_time"] > 1_700_000_000_000
    assert "consumer" not in entry
    assert "body" not in entry["response"]


def test_consumer_and_answers_of_the_gateway() -> None:
    records = {
        "services/s": {},
        "consumers/jack": {"username": "jack", "plugins": {"key-auth": {"key": "k"}}},
    }
    plugins = {"key-auth": {}, "mocking": {"response_example": "x", "response_status": 201}}
    with Bench({}, records, plugins=plugins, service_id="s") as bench:
        assert bench.kit.request(headers={"apikey": "k"}).status == 201
        entry = bench.logged()
        assert entry["consumer"] == {"username": "jack"}
        assert (entry["service_id"], entry["upstream"], entry["response"]["status"]) == ("s", "", 201)
        assert "content-length" in entry["response"]["headers"]
        assert "upstream_latency" not in entry


def test_a_form_of_ones_own() -> None:
    form = {"who": "$remote_addr", "fixed": "text", "none": "$arg_none", "deep": {"uri": "$uri", "n": 7}}
    with Bench({"log_format": form}) as bench:
        bench.kit.request(target="/p")
        assert bench.logged() == {
            "who": "127.0.0.1",
            "fixed": "text",
            "deep": {"uri": "/p", "n": 7},
            "route_id": "kit",
            "service_id": "",
        }


def test_the_form_of_the_metadata_and_additions() -> None:
    with Bench({}, {"plugin_metadata/tcp-logger": {"log_format": {"u": "$uri"}}}) as bench:
        bench.kit.request(target="/p")
        assert bench.logged()["u"] == "/p"
    with Bench({"log_format_extra": {"extra": "$arg_a"}}) as bench:
        bench.kit.request(target="/p?a=1")
        entry = bench.logged()
        assert (entry["extra"], entry["request"]["uri"]) == ("1", "/p?a=1")


@pytest.mark.parametrize("size", [10, 40_000])
def test_bodies(size: int) -> None:
    with Bench({"include_req_body": True, "include_resp_body": True, "max_resp_body_bytes": 4}) as bench:
        bench.kit.upstream_answers = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
        )
        answer = bench.kit.request("POST", "/", body=b"x" * size)
        assert answer.body == b"abcdef"
        entry = bench.logged()
        assert entry["request"]["body"] == "x" * size
        assert entry["response"]["body"] == "abcd"


def test_long_bodies_are_left_out() -> None:
    with Bench({"include_req_body": True, "max_req_body_bytes": 5}) as bench:
        bench.kit.request("POST", "/", body=b"123456")
        assert "body" not in bench.logged()["request"]


def test_bodies_where_expressions_hold() -> None:
    config = {
        "include_req_body": True,
        "include_req_body_expr": [["arg_a", "==", "1"]],
        "include_resp_body": True,
        "include_resp_body_expr": [["status", "==", "404"]],
    }
    with Bench(config) as bench:
        bench.kit.request("POST", "/?a=2", body=b"x")
        bench.kit.upstream_answers = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
        bench.kit.request("POST", "/?a=1", body=b"x")
        flush(bench.kit)
        first, second = entries(bench.receiver.received)
        assert ("body" in first["request"], "body" in first["response"]) == (False, False)
        assert (second["request"]["body"], second["response"]["body"]) == ("x", "no")


def test_bytes_that_are_no_text() -> None:
    with Bench({"log_format": {"u": "$arg_a"}}) as bench:
        bench.kit.request(target="/?a=%ff")
        assert bench.logged()["u"] == "\ufffd"


def test_a_batch_of_one_is_an_object(bench: Bench) -> None:
    with Bench({"batch_max_size": 1}) as single:
        single.kit.request()
        flush(single.kit)
        assert json.loads(single.receiver.received[0])["route_id"] == "kit"


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"batch_max_size": 0}, ".batch_max_size: "),
        ({"inactive_timeout": 0}, ".inactive_timeout: "),
        ({"buffer_duration": 0}, ".buffer_duration: "),
        ({"max_retry_count": -1}, ".max_retry_count: "),
        ({"retry_delay": -1}, ".retry_delay: "),
        ({"max_req_body_bytes": 0}, ".max_req_body_bytes: "),
        ({"include_req_body_expr": [["a", "?", "b"]]}, ".include_req_body_expr"),
        ({"include_resp_body_expr": []}, ".include_resp_body_expr: "),
        ({"log_format": {"a": {"b": {"c": {"d": {"e": {"f": "g"}}}}}}}, ".log_format.a.b.c.d.e: "),
        ({"log_format": 7}, ".log_format: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("tcp-logger", {"host": "a", "port": 1, **config}).startswith(fault)
