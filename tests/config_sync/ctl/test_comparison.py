"""Whether two configurations say the same, and where not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.ctl.comparison import changed_paths, compare, readable, says_the_same

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 1.0]) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.", max_size=2), inner, max_size=3),
    max_leaves=8,
)
VALUES = JSON.map(lambda value: json.dumps(value).encode()) | st.sampled_from([b"", b"{", b"\xff", b"init_dir"])
CONFIGURATIONS = st.dictionaries(st.sampled_from(["routes/1", "routes/2", "services/1", "plugins"]), VALUES)


def raw(value: object) -> bytes:
    return json.dumps(value).encode()


@given(CONFIGURATIONS, CONFIGURATIONS)
def test_doing_what_a_comparison_says_leads_to_what_is_wanted(
    wanted: dict[str, bytes], stored: dict[str, bytes]
) -> None:
    found = compare(wanted, stored)
    result = {**stored, **{key: wanted[key] for key in (*found.added, *found.changed)}}
    for key in found.removed:
        del result[key]
    assert compare(result, wanted).is_empty()
    assert found.is_empty() is compare(stored, wanted).is_empty()
    assert len(found.added) + len(found.changed) + found.equal == len(wanted)


@given(VALUES, VALUES)
def test_there_are_changed_paths_where_values_do_not_say_the_same(old: bytes, new: bytes) -> None:
    assert bool(changed_paths(old, new)) is not says_the_same(old, new)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"uri":"/a","desc":"d"}', b'{ "desc": "d",\n"uri": "/a" }'),
        (b'{"id":"1","uri":"/a"}', b'{"uri":"/a"}'),
        (b'{"id":1,"uri":"/a"}', b'{"id":"1","uri":"/a"}'),
    ],
)
def test_layout_order_and_id_make_no_difference(one: bytes, other: bytes) -> None:
    assert says_the_same(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [({"a": True}, {"a": 1}), ({"a": [1, 2]}, {"a": [2, 1]}), ({"a": {"id": 1}}, {"a": {"id": 2}})]
)
def test_types_order_of_lists_and_inner_ids_make_one(one: object, other: object) -> None:
    assert not says_the_same(raw(one), raw(other))


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ({"uri": "/a"}, {"uri": "/b"}, ["$.uri"]),
        ({"uri": "/a"}, {"uri": "/a", "desc": ""}, ["$.desc"]),
        ({"nodes": {"h:80": 1}}, {"nodes": {"h:80": 2}}, ["$.nodes['h:80']"]),
        ({"vars": [1, 2]}, {"vars": [1, 3]}, ["$.vars[1]"]),
        ({"vars": [1, 2]}, {"vars": [1]}, ["$.vars"]),
        ({"id": "1", "a": 1}, {"a": 1}, []),
    ],
)
def test_changed_paths(old: Any, new: Any, paths: list[str]) -> None:
    assert changed_paths(raw(old), raw(new)) == paths


def test_what_is_no_json_is_shown_as_it_is() -> None:
    assert readable(b'{"b":1,"a":[]}') == '{\n  "a": [],\n  "b": 1\n}'
    assert readable(b"init_dir") == "init_dir"
