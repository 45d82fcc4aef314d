"""Why a request gets its route: asked of a worker's own tables."""

import asyncio
import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from config_sync.cache import ConfigStore, Entry
from config_sync.settings import RouterSettings, Settings
from worker.api.explain import ExplainHandlers, read_question
from worker.api.messages import Answer, Outcome, Portions, Request
from worker.context import WorkerContext
from worker.scoreboard import Scoreboard, WorkerState

NODES = {"127.0.0.1:80": 1}


class Bench:
    """A worker's tables, without a worker."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **router: Any) -> None:
        self.store = ConfigStore()
        settings = Settings(access_log=False, router=RouterSettings(**router))
        self.context = WorkerContext(settings, loop, self.store)
        self.line = Scoreboard(1).allocate(0, 1)
        self.line.pid, self.line.state = 77, WorkerState.READY
        ticks = count()
        self.handlers = ExplainHandlers(self.context, self.store, self.line, lambda: next(ticks) * 0.01)
        self.revision = 1

    def put(self, key: str, value: dict[str, Any]) -> None:
        self.revision += 1
        self.store.apply([Entry(key, json.dumps(value).encode(), self.revision, self.revision, 1)], self.revision)

    def route(self, id_: str, uri: str, **more: Any) -> None:
        self.put(f"routes/{id_}", {"uri": uri, "upstream": {"nodes": NODES}, **more})

    def explain(self, query: str) -> dict[str, Any]:
        return read(self.handlers.explain(Request("GET", "/v1/explain", query)))

    def reasons(self, query: str) -> dict[str, str]:
        answer = self.explain(query)
        return {one["route"]: one["reason"] for one in (*answer["candidates"], *answer["others"])}

    def warnings(self) -> dict[str, Any]:
        for _ in self.context.switcher.shadows.steps():
            pass
        return read(self.handlers.warnings(Request("GET", "/v1/config/warnings")))


def read(outcome: Outcome) -> dict[str, Any]:
    raw = b"".join(outcome.pieces) if isinstance(outcome, Portions) else b""
    if isinstance(outcome, Answer):
        raw = outcome.body
    decoded: dict[str, Any] = json.loads(raw)
    return decoded


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def bench(loop: asyncio.AbstractEventLoop) -> Bench:
    return Bench(loop)


def test_the_winner_and_why_the_others_lost(bench: Bench) -> None:
    bench.route("host", "/a/*", host="*.b.com", methods=["PUT"])
    bench.route("exact", "/a/b", hosts=["a.b.com"], remote_addrs=["10.0.0.0/8"])
    bench.route("wins", "/a/*", host="a.b.com", priority=3)
    bench.route("below", "/a/*", host="a.b.com")
    bench.route("shorter", "/*", host="a.b.com")
    bench.route("pattern", "/a/*/c", host="a.b.com", priority=9)
    bench.route("free", "/a/b")
    bench.route("other", "/a/b", host="x.org")
    bench.route("off", "/a/b", status=0)
    bench.route("far", "/z")
    answer = bench.explain("method=GET&host=a.b.com&uri=/a/b&remote_addr=192.0.2.1")
    assert answer["winner"] == {
        "route": "wins",
        "uri": "/a/*",
        "host": "a.b.com",
        "match": "prefix",
        "priority": 3,
        "captures": {":ext": "b"},
    }
    assert [(one["route"], one["result"], one["reason"]) for one in answer["candidates"]] == [
        ("exact", "loses", "remote_addr: takes 10.0.0.0/8"),
        ("pattern", "loses", "uri: the path has the prefix, but not the rest of the pattern"),
        ("wins", "wins", ""),
        ("below", "loses", "priority: 0 is below 3"),
        ("shorter", "loses", "uri: its literal prefix is shorter"),
        ("host", "loses", "method: takes PUT"),
        ("free", "loses", "host: without a host comes after a.b.com"),
    ]
    assert answer["others"] == [
        {"route": "other", "reason": "host: takes x.org"},
        {"route": "off", "reason": "status: 0, it is disabled"},
    ]
    assert (answer["slot"], answer["pid"], answer["revision"]) == (0, 77, bench.revision)
    assert answer["mode"] == "radixtree_host_uri"
    assert answer["changed_meanwhile"] is False


def test_the_upstream_and_its_node(bench: Bench) -> None:
    bench.put("upstreams/u", {"nodes": {"127.0.0.1:80": 1, "127.0.0.2:80": 2}})
    bench.put("services/s", {"upstream_id": "u", "plugins": {"cors": {}, "key-auth": {}}})
    bench.put("plugin_configs/p", {"plugins": {"cors": {}}})
    bench.put("global_rules/g", {"plugins": {"prometheus": {}}})
    bench.put("routes/1", {"uri": "/x", "service_id": "s", "plugin_config_id": "p", "plugins": {"echo": {"body": "x"}}})
    answer = bench.explain("uri=/x")
    assert answer["answer"] is None
    assert (answer["upstream"]["id"], answer["upstream"]["from"]) == ("u", "services/s")
    assert answer["upstream"]["node"] == "127.0.0.2:80"
    assert bench.explain("uri=/x")["upstream"]["node"] == "127.0.0.2:80"  # the balancer has not been moved
    assert [(node["node"], node["weight"]) for node in answer["upstream"]["nodes"]] == [
        ("127.0.0.1:80", 1),
        ("127.0.0.2:80", 2),
    ]
    reasons = [(one["name"], one["from"], one["reason"]) for one in answer["plugins"]]
    assert reasons == [  # this worker has no plugins
        ("key-auth", "services/s", "it cannot run, so requests are refused with 503"),
        ("echo", "routes/1", "there is no such plugin"),
        ("cors", "plugin_configs/p", "there is no such plugin"),
        ("cors", "services/s", "plugin_configs/p has one of its own"),
        ("prometheus", "global_rules/g", "there is no such plugin"),
    ]


def test_what_would_be_answered_without_a_route_or_upstream(bench: Bench) -> None:
    bench.put("routes/1", {"uri": "/x", "upstream_id": "gone"})
    assert bench.explain("uri=/y")["answer"] == {"status": 404, "reason": "no route matches"}
    assert bench.explain("uri=/x")["answer"] == {"status": 502, "reason": "upstream gone of route 1 does not exist"}
    assert bench.explain("uri=/../x")["answer"] == {"status": 400, "reason": "the path leads above the root"}
    assert bench.explain("uri=/x&header=Host:b")["answer"]["status"] == 400


def test_nothing_is_noted_or_counted(bench: Bench) -> None:
    bench.route("1", "/x")
    before = bench.context.router.version
    bench.explain("uri=/x")
    assert (bench.context.requests, bench.context.connections, bench.context.router.version) == (0, 0, before)


def test_hosts_as_a_condition(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, http="radixtree_uri_with_parameter")
    bench.route("1", "/u/:id", host="a.com")
    bench.route("2", "/u/:id", host="b.com:80")
    answer = bench.explain("uri=/u/7%3Fx&host=b.com:80")
    assert answer["winner"]["captures"] == {"id": "7"}
    assert bench.reasons("uri=/u/7&host=b.com") == {"1": "host: takes a.com", "2": "host: takes b.com:80"}


def test_long_lists_are_cut(bench: Bench) -> None:
    for at in range(250):
        bench.route(f"{at:03}", "/x", methods=["PUT"] if at < 249 else ["GET"])
    answer = bench.explain("uri=/x&limit=10")
    assert len(answer["candidates"]) == 11
    assert answer["candidates"][-1]["result"] == "wins"
    assert answer["omitted"] == 239
    assert len(bench.explain("uri=/x&limit=1000")["candidates"]) == 250


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "uri: is missing"),
        ("uri=/x&what=1", "what: is no argument"),
        ("uri=/x&uri=/y", "uri: is given 2 times"),
        ("uri=/x&limit=many", "limit: must be"),
        ("uri=/x&header=A:%0D%0AB:1", "line break"),
    ],
)
def test_bad_arguments(bench: Bench, query: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_question(query)
    outcome = bench.handlers.explain(Request("GET", "/v1/explain", query))
    assert isinstance(outcome, Answer)
    assert outcome.status == 400


def test_a_worker_without_configuration_explains_nothing(bench: Bench) -> None:
    bench.line.state = WorkerState.STARTING
    outcome = bench.handlers.explain(Request("GET", "/v1/explain", "uri=/"))
    assert isinstance(outcome, Answer)
    assert outcome.status == 503


def test_very_many_warnings_are_listed_in_portions(bench: Bench) -> None:
    for at in range(300):
        bench.route(f"{at}", "/same")
    answer = bench.warnings()
    assert (answer["total"], len(answer["items"])) == (299, 299)
    listed = bench.handlers.warnings(Request("GET", "/v1/config/warnings"))
    assert isinstance(listed, Portions)
    next(listed.pieces)
    bench.route("0", "/another")
    assert bench.warnings()["total"] == 298
    assert sum(piece.count(b'"key"') for piece in listed.pieces) == 298, "the rest of what there was"


def test_warnings_are_listed(bench: Bench) -> None:
    bench.route("1", "/a")
    bench.route("2", "/a")
    bench.route("3", "/b/c*d")
    answer = bench.warnings()
    assert (answer["total"], answer["complete"]) == (2, True)
    assert answer["items"] == [
        {
            "key": "routes/2",
            "reason": "can never win: routes/1 (/a) comes before /a and takes all of it",
            "never_wins": True,
        },
        {
            "key": "routes/3",
            "reason": "uri /b/c*d: 'd' has no meaning behind a wildcard inside a segment",
            "never_wins": False,
        },
    ]
