"""opentelemetry (plugins.md section 7), against a receiver of OTLP/HTTP."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worker.plugins.receivers import flush
from tests.worker.plugins.refusals import complaint
from tests.worker.plugins.test_http_client import Server
from worker.plugins.testing import PluginKit

ON = {"sampler": {"name": "always_on"}}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-0([01])")


class Bench:
    """A kit with a collector."""

    def __init__(self, config: dict[str, Any], metadata: dict[str, Any] | None = None, **more: Any) -> None:
        self.kit = PluginKit({"opentelemetry": config}, **more)
        self.server = Server()
        self.kit.run(self.server.__aenter__())
        collector = {"address": f"127.0.0.1:{self.server.port}", "request_headers": {"X-Token": "t"}}
        self.kit.put("plugin_metadata/opentelemetry", {"collector": collector, **(metadata or {})})

    def batches(self) -> list[Any]:
        flush(self.kit)
        return [json.loads(body)["resourceSpans"][0] for body in self.server.bodies]

    def spans(self) -> list[Any]:
        return [span for batch in self.batches() for span in batch["scopeSpans"][0]["spans"]]

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.kit.run(self.server.__aexit__())
        self.kit.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench(ON, {"resource": {"service.name": "gw", "n": 7, "ok": True, "part": 0.5}}) as made:
        yield made


def read(attributes: list[Any]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in attributes}


def test_a_span_as_the_collector_gets_it(bench: Bench) -> None:
    answer = bench.kit.request("GET", "/p?q=1", {"User-Agent": "ua"})
    assert answer.upstream is not None
    found = TRACEPARENT.fullmatch(answer.upstream.header("traceparent") or "")
    assert found is not None
    assert found[3] == "1"
    batch = bench.batches()[0]
    head = bench.server.heads[0].decode().lower()
    assert head.startswith("post /v1/traces http/1.1\r\n")
    assert "\r\ncontent-type: application/json\r\n" in head
    assert "\r\nx-token: t\r\n" in head
    resource = read(batch["resource"]["attributes"])
    assert (resource["service.name"], resource["n"], resource["ok"], resource["part"]) == ("gw", "7", True, 0.5)
    (span,) = batch["scopeSpans"][0]["spans"]
    assert (span["traceId"], span["spanId"]) == (found[1], found[2])
    assert "parentSpanId" not in span
    assert (span["name"], span["kind"], span["status"]) == ("GET /*", 2, {})
    assert int(span["endTimeUnixNano"]) >= int(span["startTimeUnixNano"]) > 1_700_000_000 * 10**9
    assert read(span["attributes"]) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/p",
        "url.query": "q=1",
        "server.address": "a.com",
        "client.address": "127.0.0.1",
        "user_agent.original": "ua",
        "http.response.status_code": "200",
        "apisix.upstream_addr": "127.0.0.1:1980",
        "http.route": "/*",
        "apisix.route_id": "kit",
        "apisix.route_name": "kit",
    }


def test_the_parent_is_continued_and_errors_are_told(bench: Bench) -> None:
    bench.kit.upstream_answers = b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
    answer = bench.kit.request(headers={"traceparent": PARENT, "tracestate": "a=b"})
    assert answer.upstream is not None
    assert answer.upstream.header(
        "traceparent",
    ).startswith(f"00-{TRACE}-")  # type: ignore[union-attr]
    assert answer.upstream.header("tracestate") == "a=b"
    (span,) = bench.spans()
    assert (span["traceId"], span["parentSpanId"], span["status"]) == (TRACE, SPAN, {"code": 2})


@pytest.mark.parametrize(
    "value",
    [
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-x",
        f"00-{TRACE.upper()}-{SPAN}-01",
        "nonsense",
    ],
)
def test_parents_that_are_none_begin_a_trace(bench: Bench, value: str) -> None:
    bench.kit.request(headers={"traceparent": value})
    assert bench.spans()[0]["traceId"] != TRACE


@pytest.mark.parametrize(
    ("sampler", "parent", "is_sampled"),
    [
        ({}, None, False),
        ({"name": "always_off"}, PARENT, False),
        ({"name": "always_on"}, None, True),
        ({"name": "trace_id_ratio", "options": {"fraction": 1}}, None, True),
        ({"name": "trace_id_ratio", "options": {"fraction": 0}}, PARENT, False),
        ({"name": "parent_base"}, PARENT, True),
        ({"name": "parent_base"}, PARENT[:-1] + "0", False),
        ({"name": "parent_base"}, None, False),
        ({"name": "parent_base", "options": {"root": {"name": "always_on"}}}, None, True),
        ({"name": "parent_base", "options": {"root": {"name": "always_on"}}}, PARENT[:-1] + "0", False),
        (
            {"name": "parent_base", "options": {"root": {"name": "trace_id_ratio", "options": {"fraction": 1}}}},
            None,
            True,
        ),
    ],
)
def test_samplers(sampler: dict[str, Any], parent: str | None, is_sampled: bool) -> None:
    with Bench({"sampler": sampler}) as bench:
        answer = bench.kit.request(headers={"traceparent": parent} if parent else {})
        assert answer.upstream is not None
        assert (answer.upstream.header("traceparent") or "").endswith("01" if is_sampled else "00")
        assert len(bench.spans()) == is_sampled


def test_a_ratio_is_kept_to() -> None:
    with Bench({"sampler": {"name": "trace_id_ratio", "options": {"fraction": 0.5}}}) as bench:
        bench.kit.requests([("GET", "/", {}, b"")] * 200)
        assert 50 <= len(bench.spans()) <= 150


def test_further_attributes() -> None:
    config = {
        **ON,
        "additional_attributes": ["arg_a", "arg_none"],
        "additional_header_prefix_attributes": ["X-My-*", "x-exact"],
    }
    with Bench(config) as bench:
        bench.kit.request(target="/?a=1", headers={"X-My-One": "1", "X-Mine": "no", "X-Exact": "e", "X-Exact-2": "no"})
        attributes = read(bench.spans()[0]["attributes"])
        assert (attributes["arg_a"], attributes["x-my-one"], attributes["x-exact"]) == ("1", "1", "e")
        assert not attributes.keys() & {"arg_none", "x-mine", "x-exact-2"}


def test_trace_ids_from_request_ids() -> None:
    with Bench(ON, {"trace_id_source": "x-request-id", "set_ngx_var": True}) as bench:
        bench.kit.request(headers={"X-Request-Id": f"{TRACE[:8]}-{TRACE[8:]}"})
        bench.kit.request(headers={"X-Request-Id": "short"})
        first, second = bench.spans()
        assert first["traceId"] == TRACE
        assert len(second["traceId"]) == 32


def test_variables() -> None:
    config = {**ON, "additional_attributes": ["opentelemetry_trace_id", "opentelemetry_span_id"]}
    with Bench(config, {"set_ngx_var": True}) as bench:
        bench.kit.request()
        (span,) = bench.spans()
        attributes = read(span["attributes"])
        assert attributes["opentelemetry_trace_id"] == span["traceId"]
        assert attributes["opentelemetry_span_id"] == span["spanId"]


def test_without_metadata_nothing_happens() -> None:
    with PluginKit({"opentelemetry": ON}) as kit:
        answer = kit.request()
        assert answer.upstream is not None
        assert answer.upstream.header("traceparent") is None
    with Bench(ON) as bench:
        bench.kit.request()
        bench.kit.put("plugin_metadata/opentelemetry", None)
        answer = bench.kit.request()
        assert answer.upstream is not None
        assert answer.upstream.header("traceparent") is None
        assert len(bench.spans()) == 1


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"sampler": {"name": "x"}}, ".sampler.name: "),
        ({"sampler": {"options": {"fraction": 2}}}, ".sampler.options.fraction: "),
        ({"sampler": {"options": {"root": {"name": "parent_base"}}}}, ".sampler.options.root.name: "),
        ({"additional_attributes": 7}, ".additional_attributes: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("opentelemetry", config).startswith(fault)
