"""zipkin (plugins.md section 7), against a server of HTTP."""

import json
from typing import Any

import pytest

from tests.worker.plugins.receivers import flush
from tests.worker.plugins.refusals import complaint
from tests.worker.plugins.test_http_client import Server
from worker.plugins.testing import PluginKit

TRACE, SPAN, OUTER = "463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312", "0020000000000001"
PROBABLY_NOT = 0.00001
UPSTREAM = {"nodes": {"127.0.0.1:1980": 1}}


class Bench:
    """A kit with a server."""

    def __init__(self, **config: Any) -> None:
        self.kit = PluginKit()
        self.server = Server()
        self.kit.run(self.server.__aenter__())
        zipkin = {"endpoint": f"http://127.0.0.1:{self.server.port}/api/v2/spans", "sample_ratio": 1, **config}
        self.kit.put("routes/kit", {"uri": "/*", "upstream": UPSTREAM, "plugins": {"zipkin": zipkin}})

    def spans(self) -> dict[str, Any]:
        """Return the spans of the only request, by name."""
        flush(self.kit)
        found = [span for body in self.server.bodies for span in json.loads(body)]
        assert len({span["name"] for span in found}) == len(found)
        return {span["name"]: span for span in found}

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.kit.run(self.server.__aexit__())
        self.kit.close()


def test_three_spans() -> None:
    with Bench(service_name="gw", server_addr="10.0.0.1") as bench:
        answer = bench.kit.request("GET", "/p?q=1")
        spans = bench.spans()
        assert bench.server.heads[0].startswith(b"POST /api/v2/spans HTTP/1.1\r\n")
        request, proxy, response = (spans[name] for name in ("apisix.request", "apisix.proxy", "apisix.response_span"))
        assert request["kind"] == "SERVER"
        assert "parentId" not in request
        assert request["localEndpoint"] == {"serviceName": "gw", "ipv4": "10.0.0.1", "port": 9080}
        assert request["remoteEndpoint"] == {"ipv4": "127.0.0.1", "port": 40000}
        assert request["tags"] == {
            "component": "apisix",
            "http.method": "GET",
            "http.path": "/p",
            "http.host": "a.com",
            "http.status_code": "200",
            "http.route": "/*",
            "apisix.route_id": "kit",
        }
        assert proxy["kind"] == "CLIENT"
        assert proxy["remoteEndpoint"] == {"ipv4": "127.0.0.1", "port": 1980}
        assert proxy["parentId"] == response["parentId"] == request["id"]
        assert len({request["id"], proxy["id"], response["id"]}) == 3
        assert request["timestamp"] <= proxy["timestamp"] <= response["timestamp"]
        assert all(span["duration"] >= 1 and span["traceId"] == request["traceId"] for span in spans.values())
        assert answer.upstream is not None
        assert answer.upstream.header("x-b3-traceid") == request["traceId"]
        assert answer.upstream.header("x-b3-spanid") == proxy["id"]
        assert answer.upstream.header("x-b3-parentspanid") == request["id"]
        assert answer.upstream.header("x-b3-sampled") == "1"


@pytest.mark.parametrize(
    "headers",
    [
        {"b3": f"{TRACE}-{SPAN}-1-{OUTER}"},
        {"b3": f"{TRACE}-{SPAN}-d"},
        {"X-B3-TraceId": TRACE, "X-B3-SpanId": SPAN, "X-B3-Sampled": "1"},
        {"X-B3-TraceId": TRACE, "X-B3-SpanId": SPAN, "X-B3-Flags": "1"},
    ],
)
def test_a_trace_is_continued(headers: dict[str, str]) -> None:
    with Bench(sample_ratio=PROBABLY_NOT) as bench:
        answer = bench.kit.request(headers=headers)
        request = bench.spans()["apisix.request"]
        assert (request["traceId"], request["parentId"]) == (TRACE, SPAN)
        assert answer.upstream is not None
        assert answer.upstream.header("b3") is None
        assert answer.upstream.headers("x-b3-traceid") == [TRACE]


@pytest.mark.parametrize("headers", [{"b3": "0"}, {"b3": f"{TRACE}-{SPAN}-0"}, {"X-B3-Sampled": "0"}])
def test_decisions_of_others_hold(headers: dict[str, str]) -> None:
    with Bench() as bench:
        answer = bench.kit.request(headers=headers)
        assert bench.spans() == {}
        assert answer.upstream is not None
        assert answer.upstream.header("x-b3-sampled") == "0"


def test_a_ratio_is_kept_to() -> None:
    with Bench(sample_ratio=0.5) as bench:
        bench.kit.requests([("GET", "/", {}, b"")] * 200)
        flush(bench.kit)
        names = [span["name"] for body in bench.server.bodies for span in json.loads(body)]
        assert 50 <= names.count("apisix.request") <= 150


@pytest.mark.parametrize(
    "headers",
    [{"b3": "x"}, {"b3": f"{TRACE}-{SPAN}-2"}, {"b3": f"{TRACE}"}, {"X-B3-TraceId": "7", "X-B3-SpanId": SPAN}],
)
def test_fields_that_are_none_get_400(headers: dict[str, str]) -> None:
    with Bench() as bench:
        answer = bench.kit.request(headers=headers)
        assert (answer.status, answer.upstream) == (400, None)


def test_errors_and_answers_of_the_gateway() -> None:
    with Bench() as bench:
        bench.kit.upstream_answers = b"nonsense\r\n\r\n"
        assert bench.kit.request().status == 502
        assert bench.spans()["apisix.request"]["tags"]["error"] == "502"
    with Bench() as bench:
        zipkin = {"endpoint": f"http://127.0.0.1:{bench.server.port}/", "sample_ratio": 1}
        plugins = {"zipkin": zipkin, "mocking": {"response_example": "x"}}
        bench.kit.put("routes/kit", {"uri": "/*", "plugins": plugins})
        bench.kit.request()
        assert set(bench.spans()) == {"apisix.request", "apisix.response_span"}


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"sample_ratio": 1}, ": "),
        ({"endpoint": "http://a/"}, ": "),
        ({"endpoint": "a", "sample_ratio": 1}, ".endpoint: "),
        ({"endpoint": "http://a/", "sample_ratio": 0}, ".sample_ratio: "),
        ({"endpoint": "http://a/", "sample_ratio": 1, "server_addr": "x"}, ".server_addr: "),
        ({"endpoint": "http://a/", "sample_ratio": 1, "span_version": 3}, ".span_version: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("zipkin", config).startswith(fault)
