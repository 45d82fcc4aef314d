"""What holds plugins, and the shape of plugins wherever they stand."""

from typing import Any

import pytest

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema import (
    ListedPlugin,
    decode_consumer_group,
    decode_global_rule,
    decode_plugin_config,
    decode_plugin_list,
    decode_plugin_metadata,
    decode_route,
)
from config_sync.schema.plugins import is_disabled
from tests.config_sync.schema.values import KEYS, encrypted, raw


@pytest.mark.parametrize("decode", [decode_consumer_group, decode_global_rule, decode_plugin_config])
def test_plugins_are_required_and_the_id_is_not(decode: Any) -> None:
    resource, warnings = decode("g", raw({"plugins": {"cors": []}}))
    assert (resource.id, resource.plugins, warnings) == ("g", {"cors": {}}, [])
    with pytest.raises(InvalidResource, match="plugins"):
        decode("g", b"{}")


def test_a_global_rule_has_no_name() -> None:
    assert decode_global_rule("1", raw({"plugins": {}, "name": "n"}))[1] == ["$.name: unknown field, ignored"]


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (1, ""),
        (None, ""),
        ([1], ""),
        ({"_meta": 1}, "._meta"),
        ({"_meta": {"disable": "yes"}}, "._meta.disable"),
        ({"_meta": {"priority": 1.5}}, "._meta.priority"),
        ({"_meta": {"filter": ["a", "==", "b"]}}, "._meta.filter"),
        ({"_meta": {"filter": [["a", "is", "b"]]}}, "._meta.filter[0][1]"),
        ({"_meta": {"error_response": 5}}, "._meta.error_response"),
        ({"_meta": {"pre_function": "return function() end"}}, "._meta.pre_function"),
        ({"_meta": {"priority": None}}, "._meta.priority"),
    ],
)
def test_bad_plugins_name_the_place(config: object, path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        decode_route("1", raw({"uri": "/", "plugins": {"a-b": config}}))
    assert caught.value.path == f"$.plugins['a-b']{path}"


def test_what_is_written_in_another_way_under_meta() -> None:
    meta = {"priority": 5.0, "filter": {}, "error_response": [], "new": 1}
    route, warnings = decode_route("1", raw({"uri": "/", "plugins": {"a": {"_meta": meta}}}))
    assert route.plugins["a"]["_meta"] == {"priority": 5, "filter": [], "error_response": {}}
    assert warnings == ["$.plugins['a']._meta.new: unknown field, ignored"]


@pytest.mark.parametrize("plugin", ["serverless-pre-function", "serverless-post-function", "exit-transformer"])
def test_lua_is_refused_unless_it_is_disabled(plugin: str) -> None:
    config = {"functions": ["return function() end"]}
    with pytest.raises(InvalidResource, match="Lua"):
        decode_route("1", raw({"uri": "/", "plugins": {plugin: config}}))
    for disabled in ({"disable": True}, {"_meta": {"disable": True, "priority": "wrong"}}):
        route, _ = decode_route("1", raw({"uri": "/", "plugins": {plugin: {**config, **disabled}}}))
        assert is_disabled(route.plugins[plugin])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, False),
        ({"disable": True}, True),
        ({"disable": "x"}, False),
        ({"_meta": {"disable": True}}, True),
        ({"_meta": {"disable": False}}, False),
        ({"_meta": 5}, False),
    ],
)
def test_disabled(config: dict[str, Any], expected: bool) -> None:
    assert is_disabled(config) is expected


def test_fields_of_plugins_are_decrypted_along_their_paths() -> None:
    plugins = {
        "kafka-logger": {"brokers": [{"sasl_config": {"password": encrypted("p")}}, {"host": "b"}, 5]},
        "loki-logger": {"headers": {"Authorization": encrypted("h"), "X": 1}},
        "saml-auth": {"secret_fallbacks": [encrypted("one"), "two"]},
        "unknown": {"password": encrypted("p")},
    }
    group, _ = decode_consumer_group("1", raw({"plugins": plugins}), Keyring(KEYS))
    assert group.plugins == {
        "kafka-logger": {"brokers": [{"sasl_config": {"password": "p"}}, {"host": "b"}, 5]},
        "loki-logger": {"headers": {"Authorization": "h", "X": 1}},
        "saml-auth": {"secret_fallbacks": ["one", "two"]},
        "unknown": {"password": encrypted("p")},
    }


def test_metadata() -> None:
    value = {"id": "error-log-logger", "clickhouse": {"password": encrypted("p")}, "level": "WARN"}
    metadata, _ = decode_plugin_metadata("error-log-logger", raw(value), Keyring(KEYS))
    assert (metadata.id, metadata.config) == ("error-log-logger", {"clickhouse": {"password": "p"}, "level": "WARN"})
    assert decode_plugin_metadata("cors", b"[]")[0].config == {}
    with pytest.raises(InvalidResource):
        decode_plugin_metadata("cors", b"5")


def test_the_list_of_plugins() -> None:
    plugins, warnings = decode_plugin_list(
        "", raw([{"name": "cors", "new": 1}, {"name": "mqtt-proxy", "stream": True}])
    )
    assert plugins == (ListedPlugin("cors"), ListedPlugin("mqtt-proxy", stream=True))
    assert warnings == ["$[0].new: unknown field, ignored"]
    assert decode_plugin_list("", b"{}")[0] == ()
    for value, path in (([{}], "$[0]"), ({"a": 1}, "$"), ([{"name": 1}], "$[0].name"), (None, "$")):
        with pytest.raises(InvalidResource) as caught:
            decode_plugin_list("", raw(value))
        assert caught.value.path == path
