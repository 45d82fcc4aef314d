"""What is made of ``checks``: requests, names, what statuses mean."""

from typing import Any

import msgspec
import pytest

from config_sync import schema
from config_sync.schema.upstreams import ActiveChecks
from worker.upstream.health.checker import (
    Checker,
    Target,
    complaints,
    probe_limits,
    probe_request,
    request_limits,
    request_reports,
    target_key,
)
from worker.upstream.health.machine import Report, State
from worker.upstream.health.probe import server_name


def active(**fields: Any) -> ActiveChecks:
    return msgspec.convert(fields, ActiveChecks)


def checker(upstream: dict[str, Any] | None = None, **fields: Any) -> Checker:
    return Checker("upstreams/1", schema.Upstream(**(upstream or {})), schema.HealthChecks(active(**fields)))


def test_the_defaults() -> None:
    assert probe_limits(active()) == (2, 5, 2, 3)
    assert request_limits(None) == (5, 5, 2, 7)
    assert request_reports(None) == {}
    reports = request_reports(schema.upstreams.PassiveChecks())
    assert {status for status, report in reports.items() if report is Report.HTTP_FAILURE} == {429, 500, 503}
    assert reports[204] is Report.SUCCESS
    made = checker()
    assert made.timeout == 1.0
    assert [made.report_of(status) for status in (200, 302, 204, 404, 505)] == [
        *(Report.SUCCESS, Report.SUCCESS, None, Report.HTTP_FAILURE, Report.HTTP_FAILURE),
    ]
    assert probe_request(active(), "a") == b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def test_reports_that_do_not_count_are_not_made() -> None:
    passive = msgspec.convert(
        {"healthy": {"successes": 0}, "unhealthy": {"http_statuses": [503]}}, schema.upstreams.PassiveChecks
    )
    assert request_reports(passive) == {503: Report.HTTP_FAILURE}


@pytest.mark.parametrize(
    ("upstream", "fields", "host", "expected"),
    [
        ({}, {}, "10.0.0.1", "10.0.0.1"),
        ({}, {}, "node.example", "node.example"),
        ({}, {"host": "checked.example"}, "node.example", "checked.example"),
        ({"pass_host": "node"}, {"host": "checked.example"}, "node.example", "node.example"),
        ({"pass_host": "node"}, {"host": "checked.example"}, "10.0.0.1", "checked.example"),
        ({"pass_host": "rewrite", "upstream_host": "up.example"}, {"host": "x"}, "node.example", "up.example"),
        ({}, {}, "::1", "[::1]"),
    ],
)
def test_the_host_of_a_probe(upstream: dict[str, Any], fields: dict[str, Any], host: str, expected: str) -> None:
    made = checker(upstream, **fields)
    assert made.host_of(Target(1, host, 80, made.hostname_of(host))) == expected


@pytest.mark.parametrize(
    ("host", "name"),
    [("a.example", "a.example"), ("a.example:8443", "a.example"), ("[::1]", "::1"), ("[::1]:80", "::1")],
)
def test_the_server_name_has_no_port(host: str, name: str) -> None:
    assert server_name(host) == name


def test_nothing_configured_breaks_out_of_a_probe() -> None:
    config = active(
        http_method="GET /x HTTP/1.1\r\n",
        http_path="/a b\r\nX: y?q=1&r=%20ü",
        req_headers=["A: 1\r\nInjected: 2", "no colon", "B:2"],
    )
    assert probe_request(config, "h").split(b"\r\n") == [
        *(b"GET /a%20b%0D%0AX:%20y?q=1&r=%20%C3%BC HTTP/1.1", b"Host: h"),
        *(b"A: 1Injected: 2", b"B:2", b"Connection: close", b"", b""),
    ]
    assert [line.partition(" ")[0] for line in complaints(config)] == [
        *("checks.active.http_method", "checks.active.req_headers[0]", "checks.active.req_headers[1]"),
    ]


def test_every_part_of_the_identity_counts() -> None:
    base = ("upstreams/1", "10.0.0.1", 80, 8080, "a")
    others = [("routes/1", *base[1:]), ("upstreams/1", "10.0.0.2", *base[2:]), (*base[:2], 81, *base[3:])]
    keys = {target_key(*parts) for parts in (base, *others, (*base[:3], 8081, "a"), (*base[:4], "b"))}
    assert len(keys) == 6
    assert target_key(*base) == target_key(*base)


def test_only_reports_that_cannot_change_anything_are_settled() -> None:
    target = Target(1, "a", 80, "a")
    assert target.settled is Report.SUCCESS
    assert not target.see(State.MOSTLY_HEALTHY)
    assert target.settled is None
    assert target.see(State.UNHEALTHY)
    assert target.settled is Report.HTTP_FAILURE
    target.settled = None
    target.delivered(Report.SUCCESS)
    assert target.settled is None
    target.delivered(Report.HTTP_FAILURE)
    assert target.settled is Report.HTTP_FAILURE
