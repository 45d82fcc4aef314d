"""prometheus (plugins.md section 7, admin-api.md section 12)."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worker.plugins.receivers import until
from tests.worker.plugins.refusals import complaint
from tests.worker.plugins.scraped import Sample, samples, scrape, value
from worker.observability import scraping
from worker.observability.exposition import PORTION_SECONDS, Exposition
from worker.plugins.testing import PluginKit

CONFIG: dict[str, Any] = {"prometheus": {}}
ROUTE = {"route": "kit", "request_type": "traditional_http", "request_llm_model": "", "llm_model": ""}


def only(found: list[Sample], name: str, **labels: str) -> dict[str, str]:
    """Return all labels of the one series that has these."""
    matching = [own for metric, own, _ in found if metric == name and labels.items() <= own.items()]
    assert len(matching) == 1, matching
    return matching[0]


def test_a_request_is_counted_with_all_labels() -> None:
    with PluginKit(CONFIG) as kit:
        for _ in range(3):
            kit.request(target="/a")
        found = scrape(kit)
        node = {"service": "", "consumer": "", "node": "127.0.0.1"}
        assert only(found, "apisix_http_status") == {
            "code": "200",
            **ROUTE,
            "matched_uri": "/*",
            "matched_host": "",
            **node,
            "response_source": "upstream",
        }
        assert value(found, "apisix_http_status") == 3
        for kind in ("request", "upstream", "apisix"):
            assert only(found, "apisix_http_latency_count", type=kind) == {"type": kind, **ROUTE, **node}
            assert value(found, "apisix_http_latency_count", {"type": kind}) == 3
        for direction in ("ingress", "egress"):
            assert only(found, "apisix_bandwidth", type=direction) == {"type": direction, **ROUTE, **node}


def test_bytes_are_those_on_the_wire() -> None:
    with PluginKit(CONFIG) as kit:
        answer = kit.request("POST", "/path?q=1", {"X-A": "b"}, b"12345")
        head = len(answer.line) + 2 + sum(len(f"{name}: {text}\r\n") for name, text in answer.fields) + 2
        found = scrape(kit)
        sent = b"POST /path?q=1 HTTP/1.1\r\nHost: a.com\r\nX-A: b\r\nContent-Length: 5\r\n\r\n12345"
        assert value(found, "apisix_bandwidth", {"type": "ingress"}) == len(sent)
        assert value(found, "apisix_bandwidth", {"type": "egress"}) == head + len(answer.body)


def test_answers_of_the_gateway_are_counted_too() -> None:
    fault = {"fault-injection": {"abort": {"http_status": 418, "body": "no", "vars": [[["arg_a", "==", "1"]]]}}}
    with PluginKit({**CONFIG, **fault}) as kit:
        answer = kit.request(target="/?a=1")
        found = scrape(kit)
        assert only(found, "apisix_http_status", code="418")["response_source"] == "apisix"
        assert only(found, "apisix_http_status", code="418")["node"] == ""
        assert value(found, "apisix_http_latency_count", {"type": "request"}) == 1
        assert value(found, "apisix_http_latency_count", {"type": "upstream"}) == 0
        assert value(found, "apisix_bandwidth", {"type": "egress"}) > len(answer.body)


def test_a_broken_upstream_is_told_from_a_refusal() -> None:
    with PluginKit(CONFIG) as kit:
        kit.upstream_answers = b"nonsense\r\n\r\n"
        assert kit.request().status == 502
        assert only(scrape(kit), "apisix_http_status", code="502")["response_source"] == "nginx"


def test_global_rule_counts_what_no_route_matches() -> None:
    with PluginKit(
        records={"global_rules/1": {"plugins": CONFIG}, "routes/kit": {"uri": "/here", "plugins": {}}}
    ) as kit:
        assert kit.request(target="/nowhere").status == 404
        labels = only(scrape(kit), "apisix_http_status", code="404")
        assert (labels["route"], labels["matched_uri"], labels["node"]) == ("", "", "")
        assert labels["response_source"] == "apisix"


def test_the_use_on_the_route_wins() -> None:
    with PluginKit(
        {"prometheus": {"prefer_name": True}}, {"global_rules/1": {"plugins": CONFIG}}, route={"name": "n"}
    ) as kit:
        kit.request()
        found = scrape(kit)
        assert value(found, "apisix_http_status") == 1
        assert only(found, "apisix_http_status")["route"] == "n"


def test_names_and_routes_of_the_same_name() -> None:
    upstream = {"nodes": {"127.0.0.1:1980": 1}}
    service = {"name": "the-service", "upstream": upstream}
    named = {"prometheus": {"prefer_name": True}}
    records = {
        "services/s": service,
        "routes/a": {"uri": "/a", "name": "same", "service_id": "s", "plugins": named},
        "routes/b": {"uri": "/b", "name": "same", "service_id": "s", "plugins": named},
    }
    with PluginKit(None, records) as kit:
        kit.request(target="/a")
        kit.request(target="/b")
        found = scrape(kit)
        assert (
            value(found, "apisix_http_latency_count", {"type": "request", "route": "same", "service": "the-service"})
            == 2
        )


def test_service_consumer_and_host() -> None:
    records = {
        "services/s": {"upstream": {"nodes": {"127.0.0.1:1980": 1}}},
        "consumers/jack": {"username": "jack", "plugins": {"key-auth": {"key": "k"}}},
        "routes/r": {
            "uri": "/r/:id/*",
            "hosts": ["x.com", "*.y.com"],
            "service_id": "s",
            "plugins": {**CONFIG, "key-auth": {}},
        },
    }
    with PluginKit(None, records) as kit:
        assert kit.request(target="/r/:id/2", headers={"apikey": "k"}, host="a.y.com").status == 200
        assert kit.request(target="/r/:id/2", headers={"apikey": "k"}, host="x.com").status == 200
        found = scrape(kit)
        for host in ("*.y.com", "x.com"):
            labels = only(found, "apisix_http_status", matched_host=host)
            assert (labels["service"], labels["consumer"], labels["matched_uri"]) == ("s", "jack", "/r/:id/*")


def test_disabled_labels_are_empty() -> None:
    metadata = {"disabled_labels": {"http_status": ["node", "matched_uri"]}}
    with PluginKit(CONFIG, {"plugin_metadata/prometheus": metadata}) as kit:
        kit.request()
        found = scrape(kit)
        labels = only(found, "apisix_http_status")
        assert (labels["node"], labels["matched_uri"], labels["route"]) == ("", "", "kit")
        assert only(found, "apisix_bandwidth", type="ingress")["node"] == "127.0.0.1"


def test_extra_labels_buckets_and_prefix_of_the_settings() -> None:
    attributes = {
        "metric_prefix": "my_",
        "default_buckets": [100, 60000],
        "metrics": {"http_status": {"extra_labels": [{"upstream_addr": "$upstream_addr"}, {"who": "$arg_who"}]}},
    }
    with PluginKit(CONFIG, settings={"plugin_attr": {"prometheus": attributes}}) as kit:
        kit.request(target="/?who=a")
        kit.request(target='/?who="b%5C')
        found = scrape(kit)
        labels = only(found, "my_http_status", who="a")
        assert labels["upstream_addr"] == "127.0.0.1:1980"
        assert only(found, "my_http_status", who='\\"b\\\\')["who"]
        bounds = [own["le"] for name, own, _ in found if name == "my_http_latency_bucket" and own["type"] == "request"]
        assert bounds == ["100", "60000", "+Inf"]


def test_series_vanish_with_what_they_belong_to() -> None:
    upstream = {"nodes": {"127.0.0.1:1980": 1}}
    with PluginKit(None, {"routes/r": {"uri": "/r", "upstream": upstream, "plugins": CONFIG}}) as kit:
        kit.request(target="/r")
        assert value(scrape(kit), "apisix_http_status", {"route": "r"}) == 1
        kit.put("routes/r", {"uri": "/r", "upstream": {"nodes": {"127.0.0.2:1980": 1}}, "plugins": CONFIG})
        assert value(scrape(kit), "apisix_http_status", {"route": "r", "node": "127.0.0.1"}) == 0
        kit.put("routes/r", {"uri": "/r", "upstream": upstream, "plugins": CONFIG})
        kit.request(target="/r")
        assert value(scrape(kit), "apisix_http_status", {"route": "r"}) >= 1
        kit.put("routes/r", None)
        assert [own for _, own, _ in scrape(kit) if own.get("route") == "r"] == []


def test_beyond_the_budget_requests_are_counted_as_others() -> None:
    with PluginKit(CONFIG, settings={"plugin_attr": {"prometheus": {"max_series": 6}}}, route={"uri": "/x"}) as kit:
        for number in range(10):
            kit.put(
                f"routes/{number}", {"uri": f"/{number}", "plugins": {**CONFIG, "mocking": {"response_example": "x"}}}
            )
            kit.request(target=f"/{number}")
        found = scrape(kit)
        assert value(found, "apisix_http_status") == 10
        assert value(found, "apisix_http_status", {"route": "other"}) == 8
        assert value(found, "apisix_http_latency_count", {"type": "request", "route": "other"}) == 8


def test_latencies_add_up() -> None:
    with PluginKit({**CONFIG, "fault-injection": {"delay": {"duration": 0.06}}}) as kit:
        kit.request()
        found = scrape(kit)
        total = value(found, "apisix_http_latency_sum", {"type": "request"})
        assert total >= 60
        assert value(found, "apisix_http_latency_sum", {"type": "apisix"}) >= 60
        parts = sum(value(found, "apisix_http_latency_sum", {"type": kind}) for kind in ("upstream", "apisix"))
        assert parts == total
        assert value(found, "apisix_http_latency_bucket", {"type": "request", "le": "50"}) == 0


def test_a_removed_use_has_counted_all() -> None:
    with PluginKit(CONFIG) as kit:
        kit.request()
        kit.put("routes/kit", {"uri": "/*", "upstream": {"nodes": {"127.0.0.1:1980": 1}}})
        kit.request()
        assert value(scrape(kit), "apisix_http_status") == 1


def test_requests_under_way_are_counted_when_the_use_is_replaced() -> None:
    with PluginKit({"prometheus": {"prefer_name": True}}) as kit:

        async def replace_meanwhile() -> None:
            kit.upstream_answers = b"HTTP/1.1 200 OK\r\n"
            asked = asyncio.ensure_future(kit.ask())
            await until(lambda: kit.received)
            kit.put("routes/kit", {"uri": "/*", "upstream": {"nodes": {"127.0.0.1:1980": 1}}, "plugins": CONFIG})
            for connection in list(kit.context.upstream_connections):
                connection.data_received(b"Content-Length: 0\r\n\r\n")
            await asked

        kit.run(replace_meanwhile())
        assert value(scrape(kit), "apisix_http_status") == 1


@pytest.mark.parametrize(
    ("config", "fault"), [({"prefer_name": "x"}, ".prefer_name: "), ({"no": 1}, "")], ids=["type", "unknown"]
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("prometheus", config).startswith(fault)


def opened(**settings: Any) -> PluginKit:
    """Return a worker whose metrics are open to clients."""
    route = {"uri": "/apisix/prometheus/*", "plugins": {"public-api": {}}}
    return PluginKit(CONFIG, {"routes/metrics": route}, settings=settings)


def test_metrics_are_served_where_public_api_opens_them() -> None:
    with opened() as kit:
        kit.context.metrics.gauges = lambda: iter(["# HELP a b\n# TYPE a gauge\na 1\n"])
        kit.request()
        kit.context.metrics.flush()
        answer = kit.request(target="/apisix/prometheus/metrics")
        found = samples(answer.body.decode())
        assert (answer.status, answer.header("content-type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
        assert value(found, "apisix_http_status", {"route": "kit"}) == 1
        assert value(found, "a") == 1
        head = kit.request("HEAD", "/apisix/prometheus/metrics")
        assert (head.status, head.body) == (200, b"")
        assert kit.request("POST", "/apisix/prometheus/metrics").status == 404
        assert kit.request(target="/apisix/prometheus/other").status == 404


def test_they_are_where_the_settings_say() -> None:
    with opened(plugin_attr={"prometheus": {"export_uri": "/apisix/prometheus/mine"}}) as kit:
        assert kit.request(target="/apisix/prometheus/mine").status == 200
        assert kit.request(target="/apisix/prometheus/metrics").status == 404


def test_who_asks_meanwhile_gets_the_same_and_others_are_served() -> None:
    has_begun = asyncio.Event()
    served: list[int] = []

    def gauges() -> Iterator[str]:
        # It goes on until requests have been served in between.
        while len(served) < 3:
            has_begun.set()
            time.sleep(PORTION_SECONDS)
            yield ""

    with opened() as kit:
        kit.context.metrics.gauges = gauges

        async def together() -> list[int]:
            scrapes = [asyncio.ensure_future(kit.ask("GET", "/apisix/prometheus/metrics")) for _ in range(5)]
            await has_begun.wait()
            for _ in range(3):
                answer = await kit.ask()
                served.append(answer.status)
            return [(await scrape).status for scrape in scrapes]

        begun = iter(range(100))
        portions = Exposition.portions

        def counted(self: Exposition) -> Iterator[bytes]:
            next(begun)
            return portions(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Exposition, "portions", counted)
            assert kit.run(together()) == [200] * 5
        assert (served, next(begun)) == ([200] * 3, 1)


def test_too_many_are_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "LARGEST", 100)
    with opened() as kit:
        kit.context.metrics.gauges = lambda: iter(["#" * 101])
        answer = kit.request(target="/apisix/prometheus/metrics")
        assert (answer.status, "too many" in answer.json()["error_msg"]) == (500, True)


def test_a_failure_of_one_scrape_is_not_that_of_the_next() -> None:
    with opened() as kit:
        kit.context.metrics.gauges = lambda: iter([1])  # type: ignore[list-item]
        assert kit.request(target="/apisix/prometheus/metrics").status == 500
        kit.context.metrics.gauges = lambda: iter(())
        assert kit.request(target="/apisix/prometheus/metrics").status == 200
