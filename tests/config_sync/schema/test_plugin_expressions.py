"""Expressions in the configurations of plugins."""

import json
from typing import Any

import pytest

from config_sync.errors import InvalidResource
from config_sync.schema.plugins import decode_plugin_config

GOOD: list[Any] = [["arg_a", "==", "1"]]
BAD: list[Any] = [["arg_a", "is", "1"]]


def decode(name: str, config: dict[str, Any]) -> None:
    decode_plugin_config("1", json.dumps({"plugins": {name: config}}).encode())


def cases(expression: list[Any]) -> list[tuple[str, dict[str, Any], str]]:
    return [
        ("traffic-split", {"rules": [{"match": [{"vars": GOOD}, {"vars": expression}]}]}, "rules[0].match[1].vars"),
        ("traffic-label", {"rules": [{"match": expression}]}, "rules[0].match"),
        ("fault-injection", {"abort": {"http_status": 500, "vars": [GOOD, expression]}}, "abort.vars[1]"),
        ("fault-injection", {"delay": {"duration": 1, "vars": [expression]}}, "delay.vars[0]"),
        ("response-rewrite", {"vars": expression}, "vars"),
        ("workflow", {"rules": [{"actions": []}, {"case": expression}]}, "rules[1].case"),
        ("file-logger", {"match": [expression]}, "match[0]"),
        ("http-logger", {"include_req_body_expr": expression}, "include_req_body_expr"),
        ("kafka-logger", {"include_resp_body_expr": expression}, "include_resp_body_expr"),
        ("prometheus", {"_meta": {"filter": expression}}, "_meta.filter"),
    ]


@pytest.mark.parametrize(("name", "config", "path"), cases(BAD))
def test_bad_expressions_make_the_item_invalid(name: str, config: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        decode(name, config)
    assert caught.value.path == f"$.plugins['{name}'].{path}[0][1]"


@pytest.mark.parametrize(("name", "config", "path"), cases(GOOD))
def test_good_expressions(name: str, config: dict[str, Any], path: str) -> None:
    decode(name, config)


def test_what_does_not_run_is_not_looked_at() -> None:
    decode("response-rewrite", {"vars": BAD, "_meta": {"disable": True}})


@pytest.mark.parametrize("config", [{"rules": {}}, {"rules": [1, {"match": 5}]}, {"rules": [{"match": [{}]}]}])
def test_other_shapes_are_left_to_the_plugin(config: dict[str, Any]) -> None:
    decode("traffic-split", config)
