"""What a request sees, row by row of data-model.md section 15."""

from typing import Any

import pytest

from config_sync.merge import Stored, Target, lay_over, merge, merge_stream
from config_sync.schema import (
    Consumer,
    ConsumerGroup,
    PluginConfig,
    Route,
    Service,
    StreamRoute,
    Timeout,
    Upstream,
)

OWN, THEIRS = Upstream(name="own"), Upstream(name="theirs")


def route(revision: int = 5, **fields: Any) -> Stored[Route]:
    return Stored("routes/r", revision, Route(id="r", **fields))


def service(revision: int = 7, **fields: Any) -> Stored[Service]:
    return Stored("services/s", revision, Service(id="s", **fields))


@pytest.mark.parametrize(
    ("route_fields", "service_fields", "expected"),
    [
        ({}, {}, {"target": Target(), "hosts": (), "labels": None, "enable_websocket": False, "timeout": None}),
        # upstream and upstream_id
        ({"upstream_id": "1"}, {"upstream_id": "2"}, {"target": Target("1")}),
        ({"upstream_id": "1"}, {"upstream": THEIRS}, {"target": Target("1")}),
        ({"upstream": OWN}, {"upstream_id": "2"}, {"target": Target(None, OWN)}),
        ({"upstream": OWN}, {"upstream": THEIRS}, {"target": Target(None, OWN)}),
        ({"upstream": OWN, "upstream_id": "1"}, {}, {"target": Target("1")}),
        ({}, {"upstream_id": "2"}, {"target": Target("2")}),
        ({}, {"upstream": THEIRS}, {"target": Target(None, THEIRS)}),
        ({}, {"upstream": THEIRS, "upstream_id": "2"}, {"target": Target("2")}),
        # timeout, labels
        ({"timeout": Timeout(1, 2, 3)}, {}, {"timeout": Timeout(1, 2, 3)}),
        ({"labels": {"a": "1"}}, {"labels": {"b": "2"}}, {"labels": {"a": "1"}}),
        ({}, {"labels": {"b": "2"}}, {"labels": {"b": "2"}}),
        # name
        ({"name": "n"}, {"name": "m"}, {"name": "n", "service_name": "m"}),
        ({}, {"name": "m"}, {"name": None, "service_name": "m"}),
        # hosts
        ({"hosts": ("a",)}, {"hosts": ("b",)}, {"hosts": ("a",)}),
        ({}, {"hosts": ("b",)}, {"hosts": ("b",)}),
        # enable_websocket
        ({"enable_websocket": False}, {"enable_websocket": True}, {"enable_websocket": False}),
        ({"enable_websocket": True}, {}, {"enable_websocket": True}),
        ({}, {"enable_websocket": True}, {"enable_websocket": True}),
        # id
        ({"service_id": "s"}, {}, {"id": "r", "service_id": "s"}),
    ],
)
def test_fields_of_route_and_service(
    route_fields: dict[str, Any], service_fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    merged = merge(route(**route_fields), None, service(**service_fields))
    assert {name: getattr(merged, name) for name in expected} == expected


def test_plugins_are_taken_whole_from_the_highest_layer() -> None:
    layers: dict[str, dict[str, Any]] = {
        "service": {"a": {"s": 1}, "b": {"s": 1}, "c": {"s": 1}, "d": {"s": 1}, "e": {"s": 1}},
        "plugin_config": {"b": {"p": 1}, "c": {"p": 1}, "d": {"p": 1}, "e": {"p": 1}},
        "route": {"c": {"r": 1}, "d": {"r": 1}, "e": {"r": 1}},
        "group": {"d": {"g": 1}, "e": {"g": 1}},
        "consumer": {"e": {"c": 1}},
    }
    merged = merge(
        route(plugins=layers["route"]),
        Stored("plugin_configs/p", 6, PluginConfig(plugins=layers["plugin_config"])),
        service(plugins=layers["service"]),
    )
    assert {name: (use.key, use.revision) for name, use in merged.plugins.items()} == {
        "a": ("services/s", 7),
        "b": ("plugin_configs/p", 6),
        "c": ("routes/r", 5),
        "d": ("routes/r", 5),
        "e": ("routes/r", 5),
    }
    consumer = Stored("consumers/jack", 9, Consumer(username="jack", plugins=layers["consumer"]))
    group = Stored("consumer_groups/g", 8, ConsumerGroup(plugins=layers["group"]))
    final = lay_over(merged, consumer, group)
    assert {name: use.config for name, use in final.plugins.items()} == {
        "a": {"s": 1},
        "b": {"p": 1},
        "c": {"r": 1},
        "d": {"g": 1},
        "e": {"c": 1},
    }
    assert final.plugins["e"].key == "consumers/jack"
    assert merged.plugins["e"].config == {"r": 1}


def test_credentials_in_a_consumer_do_not_run() -> None:
    merged = merge(route(plugins={"key-auth": {"header": "x"}}))
    consumer = Stored(
        "consumers/jack", 9, Consumer(username="jack", plugins={"key-auth": {"key": "k"}, "jwt-auth": {}})
    )
    assert {name: use.config for name, use in lay_over(merged, consumer).plugins.items()} == {
        "key-auth": {"header": "x"}
    }


@pytest.mark.parametrize("disabled", [{"disable": True}, {"_meta": {"disable": True}}])
def test_a_higher_layer_disables_a_plugin(disabled: dict[str, Any]) -> None:
    merged = merge(route(plugins={"a": disabled}), None, service(plugins={"a": {}, "b": {}}))
    assert {name: use.is_disabled for name, use in merged.plugins.items()} == {"a": True, "b": False}


def test_the_version_names_all_parts() -> None:
    plugin_config = Stored("plugin_configs/p", 6, PluginConfig(plugins={}))
    assert merge(route()).version == "5"
    assert merge(route(), plugin_config).version == "5#6"
    assert merge(route(), None, service()).version == "5&7"
    merged = merge(route(), plugin_config, service())
    assert merged.version == "5#6&7"
    jack, jill = (Stored(f"consumers/{name}", 9, Consumer(username=name)) for name in ("jack", "jill"))
    group = Stored("consumer_groups/g", 8, ConsumerGroup(plugins={}))
    assert lay_over(merged, jack, group).version == "5#6&7&8&jack#9"
    assert lay_over(merged, jack).version != lay_over(merged, jill).version


@pytest.mark.parametrize(
    ("fields", "service_fields", "target"),
    [
        ({"upstream_id": "1"}, {"upstream_id": "2"}, Target("1")),
        ({"upstream": OWN}, {"upstream_id": "2"}, Target(None, OWN)),
        ({}, {"upstream_id": "2"}, Target("2")),
        ({}, {"upstream": THEIRS}, Target(None, THEIRS)),
        ({}, None, Target()),
    ],
)
def test_stream_routes(fields: dict[str, Any], service_fields: dict[str, Any] | None, target: Target) -> None:
    stream = Stored("stream_routes/t", 5, StreamRoute(id="t", service_id="s", plugins={"a": {"r": 1}}, **fields))
    base = None if service_fields is None else service(plugins={"a": {"s": 1}, "b": {"s": 1}}, **service_fields)
    merged = merge_stream(stream, base)
    assert merged.target == target
    assert merged.version == ("5" if base is None else "5&7")
    plugins = {"a": {"r": 1}} if base is None else {"a": {"r": 1}, "b": {"s": 1}}
    assert {name: use.config for name, use in merged.plugins.items()} == plugins
