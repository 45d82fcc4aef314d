"""Which plugins a request sees once it is known who it is from, and when they run (data-model.md section 15)."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from config_sync.errors import ConfigError
from worker.exchange import Exchange
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope
from worker.plugins.response_head import ResponseHead
from worker.plugins.testing import PluginKit

calls: list[str] = []


class TagConfig(msgspec.Struct):
    """Where it was configured."""

    tag: str = ""


class Noting(Plugin[TagConfig]):
    """Notes where it is configured, phase by phase."""

    Config = TagConfig

    def rewrite(self, exchange: Exchange) -> Answer | None:
        calls.append(f"rewrite {self.name} {self.config.tag}")
        return None

    def access(self, exchange: Exchange) -> Answer | None:
        calls.append(f"access {self.name} {self.config.tag}")
        return None

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        calls.append(f"header_filter {self.name} {self.config.tag}")


class Early(Noting):
    """Comes before key-auth."""

    name = "early"
    priority = 9000


class Late(Noting):
    """Comes after key-auth."""

    name = "late"
    priority = 100


class Picky(Noting):
    """Cannot be made of everything that it may be configured with."""

    name = "picky"

    def __init__(self, config: TagConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        if config.tag == "broken":
            raise ConfigError("it is broken")


@pytest.fixture(autouse=True)
def nothing_called() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


def kit(layers: dict[str, dict[str, Any]]) -> PluginKit:
    """Make a worker with plugins in the layers; ``jack`` shows his key on a route with a service and a config."""

    def of(layer: str) -> dict[str, Any]:
        return layers.get(layer, {})

    records = {
        "services/s": {"plugins": of("service")},
        "plugin_configs/p": {"plugins": of("plugin config")},
        "consumer_groups/g": {"plugins": of("group")},
        "consumers/jack": {"group_id": "g", "plugins": {"key-auth": {"key": "k"}, **of("consumer")}},
        "consumers/jill": {"plugins": {"key-auth": {"key": "jill"}}},
        "global_rules/1": {"plugins": of("global rule")},
    }
    route = {"service_id": "s", "plugin_config_id": "p"}
    return PluginKit({"key-auth": {}, **of("route")}, records, route=route, extra=(Early, Late, Picky))


def seen(worker: PluginKit, key: str = "k") -> list[str]:
    calls.clear()
    assert worker.request(headers={"apikey": key}).status == 200
    return list(calls)


def tagged(name: str, tag: str, *phases: str) -> list[str]:
    return [f"{phase} {name} {tag}" for phase in phases or ("rewrite", "access", "header_filter")]


LAYERS = ("service", "plugin config", "route", "group", "consumer")  # the last one wins


@pytest.mark.parametrize("name", ["early", "late"])
@pytest.mark.parametrize("number", range(1, 1 << len(LAYERS)))
def test_the_highest_layer_wins_with_its_whole_configuration(number: int, name: str) -> None:
    layers = [layer for at, layer in enumerate(LAYERS) if number >> at & 1]
    before = [layer for layer in layers if layer not in ("group", "consumer")]
    with kit({layer: {name: {"tag": layer}} for layer in layers}) as worker:
        # What the route has in the end ran before anybody knew whose request it is, and does not run again.
        rewritten = tagged(name, (before or layers)[-1], "rewrite")
        assert seen(worker) == rewritten + tagged(name, layers[-1], "access", "header_filter")
        assert seen(worker, "jill") == (tagged(name, before[-1]) if before else [])


@pytest.mark.parametrize("number", range(1, 1 << len(LAYERS)))
def test_what_the_highest_layer_disables_does_not_run(number: int) -> None:
    layers = [layer for at, layer in enumerate(LAYERS) if number >> at & 1]
    configs: dict[str, Any] = {layer: {"late": {"tag": layer}} for layer in layers}
    configs[layers[-1]] = {"late": {"_meta": {"disable": True}}}
    before = [layer for layer in layers if layer not in ("group", "consumer")]
    with kit(configs) as worker:
        # The consumer's layers are not there yet in the first part of rewrite.
        ran = layers[-1] not in before and bool(before)
        assert seen(worker) == (tagged("late", before[-1], "rewrite") if ran else [])


def test_what_the_consumer_brings_rewrites_after_the_route_whatever_its_priority() -> None:
    with kit({"route": {"late": {"tag": "r"}}, "consumer": {"early": {"tag": "c"}}}) as worker:
        assert seen(worker) == [
            *("rewrite late r", "rewrite early c"),
            *("access early c", "access late r"),
            *("header_filter early c", "header_filter late r"),
        ]


def test_what_group_and_consumer_bring_is_sorted_by_priority() -> None:
    with kit({"group": {"early": {"tag": "g"}}, "consumer": {"late": {"tag": "c"}}}) as worker:
        assert seen(worker)[:2] == ["rewrite early g", "rewrite late c"]
    with kit({"group": {"late": {"tag": "g"}}, "consumer": {"early": {"tag": "c"}}}) as worker:
        assert seen(worker)[:2] == ["rewrite early c", "rewrite late g"]


def test_a_global_rule_runs_beside_all_others_and_first() -> None:
    with kit({"global rule": {"late": {"tag": "global"}}, "consumer": {"late": {"tag": "c"}}}) as worker:
        assert seen(worker) == [
            call
            for phase in ("rewrite", "access", "header_filter")
            for call in tagged("late", "global", phase) + tagged("late", "c", phase)
        ]


def test_credentials_of_a_consumer_do_not_run() -> None:
    with kit({"consumer": {"basic-auth": {"username": "a", "password": "b"}}}) as worker:
        assert worker.request(headers={"apikey": "k"}).status == 200


def test_changes_of_consumer_and_group_count_from_the_next_request_on() -> None:
    with kit({"group": {"late": {"tag": "g"}}}) as worker:
        assert seen(worker) == tagged("late", "g")
        worker.put("consumer_groups/g", {"plugins": {"late": {"tag": "g2"}}})
        assert seen(worker) == tagged("late", "g2")
        worker.put("consumers/jack", {"group_id": "g", "plugins": {"key-auth": {"key": "k"}, "late": {"tag": "c"}}})
        assert seen(worker) == tagged("late", "c")
        worker.put("consumers/jack", {"plugins": {"key-auth": {"key": "k"}}})
        assert seen(worker) == []
        worker.put("services/s", {"plugins": {"late": {"tag": "s"}}})
        assert seen(worker) == tagged("late", "s")


def test_a_consumer_whose_group_is_missing_gets_503_and_nothing_of_it_runs() -> None:
    with kit({"route": {"late": {"tag": "r"}}, "consumer": {"early": {"tag": "c"}}}) as worker:
        worker.put("consumer_groups/g", None)
        answer = worker.request(headers={"apikey": "k"})
        assert (answer.status, answer.upstream) == (503, None)
        assert calls == [*tagged("late", "r", "rewrite"), *tagged("late", "r", "header_filter")]
        assert seen(worker, "jill") == tagged("late", "r")
        worker.put("consumer_groups/g", {"plugins": {}})
        assert worker.request(headers={"apikey": "k"}).status == 200


@pytest.mark.parametrize("group", [{"plugins": {"late": {"tag": "g"}}}, None])
def test_without_a_route_a_consumer_brings_nothing(group: dict[str, Any] | None) -> None:
    with kit({"global rule": {"key-auth": {}, "early": {"tag": "global"}}}) as worker:
        worker.put("consumer_groups/g", group)
        worker.put("routes/kit", None)
        answer = worker.request(headers={"apikey": "k"})
        assert (answer.status, answer.body) == (404, b'{"error_msg":"404 Route Not Found"}\n')
        assert calls == tagged("early", "global")
        assert worker.request().status == 401


def test_whom_a_global_rule_has_found_brings_plugins_to_a_route_without_any() -> None:
    with kit({"global rule": {"key-auth": {}}, "consumer": {"late": {"tag": "c"}}}) as worker:
        worker.put("routes/kit", {"uri": "/*", "upstream": {"nodes": {"127.0.0.1:1980": 1}}})
        assert seen(worker) == tagged("late", "c")


def test_a_consumers_plugin_that_cannot_be_made_refuses_also_where_the_routes_has_run() -> None:
    with kit({"route": {"picky": {}}, "consumer": {"picky": {"tag": "broken"}}}) as worker:
        refused, free = (worker.request(headers={"apikey": key}) for key in ("k", "jill"))
    assert (refused.status, refused.upstream, free.status) == (503, None, 200)
