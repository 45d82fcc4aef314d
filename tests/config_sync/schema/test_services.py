"""Services as APISIX's tools write them, good and bad."""

from typing import Any

import pytest

from config_sync.errors import InvalidResource
from config_sync.schema import decode_service
from tests.config_sync.schema.values import NODES, raw


def test_hosts_that_differ_by_case_are_one() -> None:
    assert decode_service("1", raw({"hosts": ["A.com", "a.COM", "b.com"]}))[0].hosts == ("a.com", "b.com")


def test_an_empty_service_is_valid() -> None:
    assert decode_service("1", b"{}")[0].hosts == ()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"hosts": []}, "$.hosts"),
        ({"hosts": {}}, "$.hosts"),
        ({"hosts": ["a b"]}, "$.hosts"),
        ({"hosts": ["a", "a"]}, "$.hosts"),
        ({"script": "return nothing"}, "$.script"),
        ({"enable_websocket": 1}, "$.enable_websocket"),
        ({"upstream": {}}, "$.upstream"),
        ({"upstream": {**NODES, "id": None}}, "$.upstream.id"),
        ({"plugins": {"a": 1}}, "$.plugins['a']"),
        ({"labels": {"a": "b c"}}, "$.labels['a']"),
    ],
)
def test_bad_services_name_the_place(value: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        decode_service("1", raw(value))
    assert caught.value.path == path
