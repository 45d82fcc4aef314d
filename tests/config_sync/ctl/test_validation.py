"""What is found in values without a store."""

import json
from typing import Any

import pytest

from config_sync.ctl.validation import Validator, dangling
from config_sync.errors import InvalidResource


def decode(id_: str, raw: bytes) -> tuple[Any, list[str]]:
    if raw == b"bad":
        raise InvalidResource("$.uri", f"of {id_} is bad")
    return raw, ["looks odd"] if raw == b"odd" else []


VALIDATOR = Validator({"routes": decode})


@pytest.mark.parametrize(
    ("key", "raw", "lines"),
    [
        ("routes/1", b"good", []),
        ("routes/1", b"odd", ["warning: routes/1: $: looks odd"]),
        ("routes/1", b"bad", ["error: routes/1: $.uri: of 1 is bad"]),
        ("gen_id", b"{}", ["warning: gen_id: $: is no resource that a gateway reads"]),
    ],
)
def test_findings(key: str, raw: bytes, lines: list[str]) -> None:
    assert [str(finding) for finding in VALIDATOR.examine(key, raw)] == lines


def test_references_to_what_is_not_there() -> None:
    values = {
        "services/1": {"upstream_id": "u"},
        "routes/1": {"service_id": 1, "upstream_id": "w"},
        "consumers/jack": {"group_id": "g"},
        "consumer_groups/g": {},
    }
    found = dangling({key: json.dumps(value).encode() for key, value in values.items()} | {"routes/2": b"{"})
    assert [str(finding) for finding in found] == [
        "warning: services/1: $.upstream_id: upstreams/u is not there",
        "warning: routes/1: $.upstream_id: upstreams/w is not there",
    ]
