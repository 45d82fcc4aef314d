"""What is shown holds no secret, and everything else."""

import copy
import json
from typing import Any

import pytest

from config_sync.masking import MASK, masked
from tests.config_sync.schema.values import CERTIFICATE, EXAMPLES, KEY, NODES, encrypted

TLS = {"client_cert": CERTIFICATE, "client_key": KEY}


@pytest.mark.parametrize(
    ("directory", "value", "expected"),
    [
        (
            "ssls",
            {"cert": CERTIFICATE, "key": KEY, "keys": [KEY, "$env://K"], "sni": "a"},
            {"cert": CERTIFICATE, "key": MASK, "keys": [MASK, "$env://K"], "sni": "a"},
        ),
        ("upstreams", {**NODES, "tls": TLS}, {**NODES, "tls": {**TLS, "client_key": MASK}}),
        (
            "routes",
            {
                "uri": "/",
                "upstream": {"tls": TLS},
                "plugins": {"csrf": {"key": "s"}, "limit-count": {"key": "remote_addr"}},
            },
            {
                "uri": "/",
                "upstream": {"tls": {**TLS, "client_key": MASK}},
                "plugins": {"csrf": {"key": MASK}, "limit-count": {"key": "remote_addr"}},
            },
        ),
        (
            "consumers",
            {"username": "j", "plugins": {"key-auth": {"key": "s"}, "basic-auth": {"username": "u", "password": "p"}}},
            {
                "username": "j",
                "plugins": {"key-auth": {"key": MASK}, "basic-auth": {"username": "u", "password": MASK}},
            },
        ),
        (
            "global_rules",
            {"plugins": {"ours": {"api_key": "s", "tokens": ["a"], "max_tokens": 5, "in": [{"Authorization": "s"}]}}},
            {
                "plugins": {
                    "ours": {"api_key": MASK, "tokens": [MASK], "max_tokens": 5, "in": [{"Authorization": MASK}]}
                }
            },
        ),
        (
            "services",
            {"plugins": {"traffic-split": {"rules": [{"weighted_upstreams": [{"upstream": {"tls": TLS}}]}]}}},
            {
                "plugins": {
                    "traffic-split": {
                        "rules": [{"weighted_upstreams": [{"upstream": {"tls": {**TLS, "client_key": MASK}}}]}]
                    }
                }
            },
        ),
        (
            "plugin_metadata",
            {"clickhouse": {"password": "s", "user": "u"}},
            {"clickhouse": {"password": MASK, "user": "u"}},
        ),
        ("plugin_metadata", {"master_apikey": "s"}, {"master_apikey": MASK}),
        ("secrets", {"token": "s", "uri": "u"}, {"token": MASK, "uri": "u"}),
        ("secrets", {"token": "$env://T"}, {"token": "$env://T"}),
        (
            "secrets",
            {"auth_config": {"private_key": "s", "project_id": "p"}},
            {"auth_config": {"private_key": MASK, "project_id": "p"}},
        ),
        (
            "secrets",
            {"secret_access_key": "s", "session_token": "s"},
            {"secret_access_key": MASK, "session_token": MASK},
        ),
        ("plugins", [{"name": "key-auth"}], [{"name": "key-auth"}]),
    ],
)
def test_secrets_are_masked_and_nothing_else(directory: str, value: Any, expected: Any) -> None:
    before = copy.deepcopy(value)
    assert masked(directory, value) == expected
    assert value == before


def test_no_example_shows_a_secret() -> None:
    for directory, _, value in EXAMPLES:
        text = json.dumps(masked(directory, value))
        for secret in (KEY, encrypted(KEY), encrypted("hidden"), encrypted("auth-one")):
            assert json.dumps(secret)[1:-1] not in text


@pytest.mark.parametrize(
    "value", [None, 1, "x", [], {"plugins": 1}, {"plugins": {"csrf": 1}}, {"upstream": {"tls": "x"}}]
)
def test_values_of_any_shape(value: Any) -> None:
    assert masked("routes", value) == value


def test_what_is_very_deep_is_cut() -> None:
    deep: Any = "end"
    for _ in range(900):
        deep = [deep]
    assert MASK in json.dumps(masked("routes", {"plugins": {"a": {"b": deep}}}))
