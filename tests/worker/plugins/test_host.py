"""PluginHost: what is made of changes, closed, kept and forgotten; and plugins that cannot be made."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec
import pytest

from config_sync.errors import ConfigError
from worker.exchange import Exchange
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.http_client import HttpClient
from worker.plugins.response_head import ResponseHead
from worker.plugins.stand_ins import Missing
from worker.plugins.testing import PluginKit
from worker.routing.route import Route

alive: "weakref.WeakSet[Held]" = weakref.WeakSet()
closed: list[str] = []


class HeldConfig(msgspec.Struct):
    """What a plugin is told apart by."""

    tag: str = ""
    fails: str = ""


class Held(Plugin[HeldConfig]):
    """Is counted as long as it lives; may fail to be made or closed."""

    name = "held"
    priority = 5
    Config = HeldConfig
    Metadata = HeldConfig

    def __init__(self, config: HeldConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        if config.fails == "made" or scope.metadata.fails == "made":
            raise RuntimeError("on purpose")
        alive.add(self)

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        head.fields.add(b"X-Tag", self.config.tag.encode() or b"-")

    def close(self) -> None:
        closed.append(self.config.tag)
        if self.config.fails == "closed":
            raise RuntimeError("on purpose")


class Watching(Held):
    """Only observes."""

    name = "watching"
    only_observes = True


class Gate(Plugin[HeldConfig]):
    """Waits in rewrite until it is opened, and keeps everybody out in access."""

    name = "gate"
    priority = 3000
    Config = HeldConfig
    opened: asyncio.Event

    async def rewrite(self, exchange: Exchange) -> Answer | None:
        if self.config.tag == "waits":
            await Gate.opened.wait()
        return None

    def access(self, exchange: Exchange) -> Answer | None:
        return Answer(403)


@pytest.fixture(autouse=True)
def nothing_held() -> Iterator[None]:
    gc.collect()
    alive.clear()
    closed.clear()
    yield
    closed.clear()


def kit(plugins: dict[str, Any], records: dict[str, Any] | None = None, **more: Any) -> PluginKit:
    return PluginKit(plugins, records, extra=(Held, Gate), **more)


def test_a_plugin_is_closed_when_its_configuration_goes_or_changes() -> None:
    with kit({"held": {"tag": "1"}}) as worker:
        assert worker.request().headers("x-tag") == ["1"]
        worker.put("routes/kit", {"uri": "/*", "plugins": {"held": {"tag": "2"}}, "desc": "other"})
        assert closed == ["1"]
        worker.request()
        worker.put("routes/kit", {"uri": "/*", "plugins": {"held": {"tag": "2"}}, "desc": "another"})
        assert closed == ["1"]
        worker.put("routes/kit", {"uri": "/*", "plugins": {"held": {"tag": "2", "_meta": {"disable": True}}}})
        assert closed == ["1", "2"]
        worker.put("routes/kit", {"uri": "/*", "plugins": {"held": {"tag": "3"}}})
        worker.request()
        worker.put("routes/kit", None)
        assert closed == ["1", "2", "3"]


def test_after_many_changes_only_what_is_configured_is_alive(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # records that are kept for the test's report keep the requests they tell of
    random = Random(7)
    places = ("routes/r{}", "services/s{}", "plugin_configs/p{}", "consumers/c{}", "consumer_groups/g{}")
    consumer = {"key-auth": {"key": "k"}}
    upstream = {"nodes": {"127.0.0.1:1980": 1}}
    with kit({"key-auth": {}}, {"consumers/jack": {"plugins": {**consumer, "held": {"tag": "j"}}}}) as worker:
        for number in range(1_500):
            place = random.choice(places)
            key = place.format(random.randrange(4))
            plugins = {"held": {"tag": str(number)}} if random.random() < 0.7 else {}
            name = key.partition("/")[2]
            members: dict[str, Any] = {"username": name} if key.startswith("consumers") else {}
            if key.startswith("routes"):
                members = {"uri": f"/{name}", "service_id": "s1", "plugin_config_id": "p1", "upstream": upstream}
            is_gone = random.random() < 0.2
            worker.put(key, None if is_gone else {**members, "plugins": plugins})
            if number % 7 == 0:
                worker.put("global_rules/1", {"plugins": {"held": {"tag": f"g{number}"}}} if number % 2 else None)
            if number % 11 == 0:
                worker.put("consumers/jack", {"plugins": {**consumer, "held": {"tag": f"j{number}"}}})
            worker.request(target=f"/r{random.randrange(4)}", headers={"apikey": "k"})
        host = worker.context.plugins
        for place in places:
            for number in range(4):
                worker.put(place.format(number), None)
        worker.put("consumers/jack", None)
        worker.put("global_rules/1", None)
        worker.request()
        gc.collect()
        assert [each.config.tag for each in alive] == []
        assert set(host.maker.made) == {"routes/kit"}
        assert host._of_consumers == {}
        assert host._parts == {}
        assert set(host._chains) <= {"kit"}


@pytest.mark.parametrize("place", ["routes/kit", "services/1", "global_rules/1"])
def test_one_that_only_observes_and_cannot_be_made_is_passed_over(place: str, caplog: pytest.LogCaptureFixture) -> None:
    nodes = {"nodes": {"127.0.0.1:1980": 1}}
    records: dict[str, Any] = {
        "services/1": {"plugins": {}},
        "routes/kit": {"uri": "/*", "upstream": nodes, "service_id": "1", "plugins": {"held": {}}},
    }

    def configured(watching: dict[str, Any]) -> dict[str, Any]:
        base: dict[str, Any] = records.get(place, {})
        return {**base, "plugins": {**base.get("plugins", {}), "watching": watching}}

    with PluginKit(extra=(Held, Watching), records=records) as worker:
        worker.put(place, configured({"fails": "made"}))
        answer = worker.request()
        assert (answer.status, answer.headers("x-tag")) == (200, ["-"])
        host = worker.context.plugins
        reason = "plugin watching cannot be made, and requests go on without it: RuntimeError: on purpose"
        assert (place, reason) in list(host.warnings())
        assert f"{place}: plugin watching cannot be made" in caplog.text
        worker.put(place, configured({"tag": "new"}))
        answer = worker.request()
        assert (answer.status, sorted(answer.headers("x-tag"))) == (200, ["-", "new"])
        assert (place, reason) not in list(host.warnings())


def test_one_that_is_made_later_is_warned_of_no_more() -> None:
    with PluginKit({"watching": {}}, {"plugin_metadata/watching": {"fails": "made"}}, extra=(Watching,)) as worker:
        assert worker.request().headers("x-tag") == []
        assert any(key == "routes/kit" for key, _ in worker.context.plugins.warnings())
        worker.put("plugin_metadata/watching", {})
        assert worker.request().headers("x-tag") == ["-"]
        assert not any(key == "routes/kit" for key, _ in worker.context.plugins.warnings())


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("http-logger", {"uri": "http://127.0.0.1:1/"}),
        ("zipkin", {"endpoint": "http://127.0.0.1:1/", "sample_ratio": 1}),
        ("opentelemetry", {}),
    ],
)
def test_a_library_that_is_missing_keeps_nobody_out(
    name: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def require(plugin: str) -> None:
        raise ConfigError(f"{plugin} needs an HTTP client")

    monkeypatch.setattr(HttpClient, "require", require)
    metadata = {"plugin_metadata/opentelemetry": {"collector": {"address": "127.0.0.1:1"}}}
    with PluginKit({name: config}, metadata) as worker:
        assert worker.request().status == 200
        assert any(f"{name} needs an HTTP client" in reason for _, reason in worker.context.plugins.warnings())


def test_all_that_only_observe_say_so() -> None:
    with PluginKit() as worker:
        registry = worker.context.plugins.registry
        found = {name for name in registry.names() if (own := registry.get(name)) and own.only_observes}
    loggers = {"http-logger", "tcp-logger", "udp-logger", "file-logger", "syslog"}
    assert found == loggers | {"opentelemetry", "zipkin", "prometheus"}


def test_one_that_cannot_be_made_refuses_requests_and_nothing_else() -> None:
    with kit({"held": {"fails": "made"}}, {"routes/other": {"uri": "/other", "plugins": {}}}) as worker:
        assert worker.request().status == 503
        assert worker.context.plugins.failures == {"held": 1}
        worker.put("global_rules/1", {"plugins": {"held": {"fails": "made"}}})
        worker.put("routes/new", {"uri": "/new", "plugins": {}})
        assert worker.request(target="/new").status == 503
        worker.put("global_rules/1", None)
        worker.put("routes/kit", {"uri": "/*", "plugins": {"held": {"tag": "good"}}})
        assert worker.request().headers("x-tag") == ["good"]


def test_what_was_closed_never_comes_back() -> None:
    with kit({"held": {"tag": "1"}}) as worker:
        worker.request()
        (first,) = alive
        worker.put("plugin_metadata/held", {"fails": "made"})
        assert worker.request().status == 503
        assert closed == ["1"]
        worker.put("plugin_metadata/held", {})
        assert worker.request().headers("x-tag") == ["1"]
        assert worker.context.plugins.maker.made["routes/kit"]["held"].plugin is not first


def test_one_that_fails_when_it_is_closed_costs_nobody_anything() -> None:
    with kit({"held": {"tag": "1", "fails": "closed"}}) as worker:
        worker.request()
        worker.put("routes/kit", {"uri": "/*", "plugins": {"held": {"tag": "2", "fails": "closed"}}})
        assert worker.request().headers("x-tag") == ["2"]
        assert worker.context.plugins.failures == {"held": 1}
    assert closed == ["1", "2"]


def test_a_route_that_goes_while_a_hook_waits_still_keeps_out_whom_it_did() -> None:
    records = {
        "consumers/jack": {"plugins": {"key-auth": {"key": "k"}, "held": {"tag": "jack"}}},
    }
    with kit({"gate": {"tag": "waits"}, "key-auth": {}}, records) as worker:

        async def race() -> int:
            Gate.opened = asyncio.Event()
            asked = asyncio.ensure_future(worker.ask("GET", "/", {"apikey": "k"}))
            await asyncio.sleep(0.01)
            worker.put("routes/kit", None)
            Gate.opened.set()
            answer = await asked
            assert answer.headers("x-tag") == ["jack"]
            return answer.status

        assert worker.run(race()) == 403


def test_a_route_of_which_nothing_is_known_any_more_keeps_everybody_out() -> None:
    with kit({}, {"routes/gone": {"uri": "/gone", "plugins": {"key-auth": {}}}}) as worker:
        route = next(found for found in gc.get_objects() if isinstance(found, Route) and found.id == "gone")
        worker.put("routes/gone", None)
        chain = worker.context.plugins.chain_of(route)
        assert chain is not None
        assert [use.plugin.__class__ for use in chain.uses] == [Missing]


def test_what_keeps_somebody_out_keeps_everybody_out_when_two_global_rules_have_it() -> None:
    rules: dict[str, Any] = {f"global_rules/{number}": {"plugins": {"key-auth": {}, "held": {}}} for number in (1, 2)}
    records = {**rules, "consumers/jack": {"plugins": {"key-auth": {"key": "k"}}}}
    with kit({}, records) as worker:
        refused = worker.request(headers={"apikey": "k"})
        assert (refused.status, refused.headers("x-tag"), refused.upstream) == (503, [], None)
        worker.put("global_rules/2", {"plugins": {}})
        assert [worker.request(headers={"apikey": key}).status for key in ("k", "x")] == [200, 401]


def test_a_filter_is_asked_once_though_a_consumer_brings_plugins() -> None:
    meta = {"filter": [["http_x", "==", "1"]]}
    records = {"consumers/jack": {"plugins": {"key-auth": {"key": "k"}, "echo": {"after_body": "!"}}}}
    plugins = {"key-auth": {}, "held": {"tag": "r", "_meta": meta}}
    with kit(plugins, records) as worker:
        answer = worker.request(headers={"apikey": "k", "x": "1"})
        assert (answer.body, answer.headers("x-tag")) == (b"ok!", ["r"])
        host = worker.context.plugins
        (both,) = host._of_consumers.values()
        (route,) = [chain for chain in host._chains.values() if chain is not None]
        assert {use.name: use for use in route.uses}["held"] in both.uses


def test_the_list_in_the_configuration_enables_where_that_is_wanted() -> None:
    records: dict[str, Any] = {"plugins": [{"name": "echo"}, {"name": "held", "stream": True}]}
    with kit({"held": {}, "echo": {"after_body": "!"}}, records) as worker:
        assert (worker.request().body, worker.request().headers("x-tag")) == (b"ok!", ["-"])
    closed.clear()
    with kit({"held": {}, "echo": {"after_body": "!"}}, settings={"plugins": {"listed_only": True}}) as worker:
        assert worker.request().headers("x-tag") == ["-"]
        worker.put("plugins", records["plugins"])
        assert closed == [""]
        assert (worker.request().body, worker.request().headers("x-tag")) == (b"ok!", [])
        worker.put("plugins", [{"name": "held"}])
        assert (worker.request().body, worker.request().headers("x-tag")) == (b"ok", ["-"])
        worker.put("routes/kit", {"uri": "/*", "plugins": {"key-auth": {}}})
        assert worker.request().status == 503
        worker.put("plugins", None)
        assert worker.request().status == 401
