"""/v1/healthcheck, in APISIX's form."""

import json
from typing import Any

from config_sync import schema
from config_sync.cache import ConfigStore
from tests.worker.upstream.health.test_registry import insert_all, use
from worker.api.health import HealthHandlers
from worker.api.messages import Answer, Outcome, Portions, Request
from worker.upstream.health.machine import State, Status
from worker.upstream.health.registry import CheckRegistry
from worker.upstream.health.table import HealthTable


def read(outcome: Outcome) -> tuple[int, Any]:
    assert isinstance(outcome, Answer | Portions)
    body = outcome.body if isinstance(outcome, Answer) else b"".join(outcome.pieces)
    return outcome.status, json.loads(body)


def test_nodes_with_their_counters() -> None:
    table = HealthTable(1)
    registry = CheckRegistry(table)
    use(registry, "127.0.0.1")
    table.write(insert_all(table, registry)["127.0.0.1"], Status(State.MOSTLY_UNHEALTHY, 1, 0, 0, 0))
    counter = {"success": 1, "http_failure": 0, "tcp_failure": 0, "timeout_failure": 0}
    node = {"ip": "127.0.0.1", "port": 80, "hostname": "127.0.0.1", "status": "mostly_unhealthy", "counter": counter}
    handlers = HealthHandlers(ConfigStore(), registry, "/apisix")
    assert read(handlers.all(Request("GET", "/v1/healthcheck"))) == (
        200,
        [{"name": "/apisix/upstreams/1", "type": "http", "nodes": [node]}],
    )


def test_without_health_checks_the_list_is_an_empty_object() -> None:
    handlers = HealthHandlers(ConfigStore(), CheckRegistry(HealthTable(1)), "/apisix")
    assert read(handlers.all(Request("GET", "/v1/healthcheck"))) == (200, {})


def test_what_is_not_there_says_so() -> None:
    handlers = HealthHandlers(ConfigStore(schema.decoders()), None, "/apisix")
    for path, status, reason in (
        ("routes/1", 404, "routes[1] not found"),
        ("stream_routes/1", 404, "stream_routes[1] not found"),
        ("routes", 404, "missing src id for src type routes"),
        ("ssls/1", 400, "invalid src type ssls; it must be one of routes, services, upstreams, stream_routes"),
    ):
        answer = read(handlers.one(Request("GET", f"/v1/healthcheck/{path}")))
        assert answer == (status, {"error_msg": reason})
