"""Routes as APISIX's tools write them, good and bad."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.errors import InvalidResource
from config_sync.schema import Node, Timeout, decode_route, decode_service, decode_upstream
from tests.config_sync.schema.values import NODES, raw


def test_a_route_in_full() -> None:
    value = {
        "id": 5,
        "uris": ["/a", "/b/*"],
        "hosts": ["A.com", "*.B.com"],
        "methods": ["GET", "POST"],
        "remote_addrs": ["10.0.0.0/8", "::1"],
        "priority": 3.0,
        "vars": {},
        "upstream": {
            "type": "roundrobin",
            "nodes": [{"host": "::1", "port": 80, "weight": 1, "priority": -1}],
            "timeout": {"connect": 0.5, "send": 1, "read": 2},
            "retries": 2,
        },
        "timeout": {"connect": 1, "send": 1, "read": 1},
        "plugins": [],
        "labels": {"a": "b"},
        "status": 1,
        "create_time": 1,
    }
    route, warnings = decode_route("5", raw(value))
    assert warnings == []
    assert route.id == "5"
    assert route.hosts == ("a.com", "*.b.com")
    assert route.methods == ("GET", "POST")
    assert route.priority == 3
    assert route.vars == ()
    assert route.upstream is not None
    assert route.upstream.nodes == (Node("[::1]", 1, 80, -1),)
    assert route.upstream.timeout == Timeout(0.5, 1, 2)


def test_one_and_several_are_the_same() -> None:
    route, _ = decode_route("1", raw({"uri": "/a", "host": "A", "remote_addr": "10.0.0.1", "service_id": 7}))
    assert (route.uris, route.hosts, route.remote_addrs, route.service_id) == (("/a",), ("a",), ("10.0.0.1",), "7")


def test_unknown_fields_are_accepted_with_a_warning() -> None:
    route, warnings = decode_route("1", raw({"uri": "/a", "service_id": "s", "meta": {}}))
    assert route.uris == ("/a",)
    assert warnings == ["$.meta: unknown field, ignored"]


@pytest.mark.parametrize("plugins", [{}, []])
def test_empty_plugins_are_enough_for_a_route(plugins: object) -> None:
    assert decode_route("1", raw({"uri": "/a", "plugins": plugins}))[0].plugins == {}


def test_conditions_are_kept_as_they_are() -> None:
    conditions = ["AND", ["arg_a", "==", "1"], ["OR", ["arg_b", ">", 2], ["arg_c", "in", [1]]]]
    assert decode_route("1", raw({"uri": "/a", "plugins": {}, "vars": conditions}))[0].vars == tuple(conditions)


ROUTE = {"uri": "/a", "upstream": NODES}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"uri": None}, "$.uri"),
        ({"uri": ""}, "$.uri"),
        ({"uri": "x" * 4097}, "$.uri"),
        ({"uris": ["/b"]}, "$.uris"),
        ({"host": "a b"}, "$.host"),
        ({"host": "a", "hosts": ["b"]}, "$.hosts"),
        ({"hosts": []}, "$.hosts"),
        ({"methods": ["FETCH"]}, "$.methods[0]"),
        ({"methods": ["GET", "GET"]}, "$.methods"),
        ({"priority": "1"}, "$.priority"),
        ({"priority": 1.5}, "$.priority"),
        ({"status": 2}, "$.status"),
        ({"remote_addr": "10.0.0.300"}, "$.remote_addr"),
        ({"id": "a b"}, "$.id"),
        ({"upstream_id": 0}, "$.upstream_id"),
        ({"timeout": {"connect": 1, "send": 1}}, "$.timeout"),
        ({"timeout": {"connect": 0, "send": 1, "read": 1}}, "$.timeout.connect"),
        ({"filter_func": "function(vars) return true end"}, "$.filter_func"),
        ({"script": "return nothing"}, "$.script"),
        ({"name": ""}, "$.name"),
        ({"desc": "x" * 257}, "$.desc"),
        ({"labels": {"a": "b c"}}, "$.labels['a']"),
        ({"labels": {"a": 1}}, "$.labels['a']"),
        ({"vars": [1]}, "$.vars[0]"),
        ({"remote_addrs": ["10.0.0.0/8", "::1%lo"]}, "$.remote_addrs"),
        ({"remote_addr": "10.0.0.0/255.0.0.0"}, "$.remote_addr"),
    ],
)
def test_bad_routes_name_the_place(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as caught:
        decode_route("1", raw({**ROUTE, **changes}))
    assert caught.value.path == path


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"init_dir", b"[]", b"1", b'"x"', b"{", b"\xff", b'{"service_id":"s"}', b'{"uri":"/a"}'),
        b'{"uri":"/a","plugin_config_id":"1"}',
        b'{"uri":"/a","plugins":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_values_that_are_no_routes(value: bytes) -> None:
    with pytest.raises(InvalidResource):
        decode_route("1", value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [
    "uri",
    "uris",
    "host",
    "hosts",
    "methods",
    "upstream",
    "nodes",
    "timeout",
    "status",
    "id",
    "labels",
    "plugins",
    "vars",
    "remote_addrs",
    "hash_on",
    "tls",
    "keepalive_pool",
]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6))
def test_no_value_does_worse_than_being_refused(changes: dict[str, Any]) -> None:
    for decode in (decode_route, decode_service, decode_upstream):
        for value in (changes, {**ROUTE, **changes}, {**ROUTE, "upstream": {**NODES, **changes}}):
            with contextlib.suppress(InvalidResource):
                decode("1", raw(value))
