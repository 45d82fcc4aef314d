"""Standalone files: what they mean, what is refused and where, and that writing is the inverse of reading."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from config_sync import yaml_values
from config_sync.errors import StandaloneError
from config_sync.schema import DIRECTORIES
from config_sync.standalone import read_standalone, resources, write_standalone

CONF = Path(__file__).parents[2] / "conf"
EVERYTHING = """
# A file of all kinds.
routes:
  - id: 1
    uri: /hello
    upstream_id: up
  - uri: /without-id
    upstream: {nodes: {"127.0.0.1:80": 1, 127.0.0.1:81: 1}}
consumers:
  - username: jack
    plugins: {key-auth: {key: secret}}
  - id: jack/credentials/second
    plugins: {key-auth: {key: other}}
plugin_metadata:
  - id: http-logger
    log_format: {host: $host}
plugins:
  - name: key-auth
  - name: mqtt-proxy
    stream: true
secrets:
  - id: vault/1
    uri: https://vault
services:
upstreams: []
ssls: {}
#END
"""


def test_every_kind_gets_the_key_that_it_has_in_etcd() -> None:
    assert read_standalone(EVERYTHING, {}) == {
        "routes/1": b'{"id":1,"upstream_id":"up","uri":"/hello"}',
        "routes/arr_2": b'{"id":"arr_2","upstream":{"nodes":{"127.0.0.1:80":1,"127.0.0.1:81":1}},"uri":"/without-id"}',
        "consumers/jack": b'{"plugins":{"key-auth":{"key":"secret"}},"username":"jack"}',
        "consumers/jack/credentials/second": b'{"id":"jack/credentials/second","plugins":{"key-auth":{"key":"other"}}}',
        "plugin_metadata/http-logger": b'{"id":"http-logger","log_format":{"host":"$host"}}',
        "plugins": b'[{"name":"key-auth"},{"name":"mqtt-proxy","stream":true}]',
        "secrets/vault/1": b'{"id":"vault/1","uri":"https://vault"}',
    }


def test_the_example_can_be_read() -> None:
    assert read_standalone((CONF / "apisix.yaml").read_text(), {})


@pytest.mark.parametrize("text", ["#END", "\n#END\n\n", "# nothing\n  #END  \n", "routes:\n#END", "{}", "{}\n#END"])
def test_a_file_may_be_empty(text: str) -> None:
    assert read_standalone(text, {}) == {}


def test_json_needs_no_end_and_gives_the_same() -> None:
    as_json = json.dumps(yaml.safe_load(EVERYTHING))
    assert read_standalone(as_json, {}) == read_standalone(EVERYTHING, {})
    assert read_standalone(as_json + "\n#END\n", {}) == read_standalone(EVERYTHING, {})
    assert read_standalone("{routes: [{id: a}]} # braces alone do not make it JSON\n#END", {}) == {
        "routes/a": b'{"id":"a"}'
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("routes: []", "the last line must be #END"),
        ("routes: []\n#END\nupstreams: []", "the last line must be #END"),
        ("", "the last line must be #END"),
        ('{"routes": [{"id": "1"}', "is no JSON"),
        ("routes:\n  - id: [\n#END", "line 4: is no YAML"),
        ("routes:\n  - {id: 1}\n  - {id: 2\n#END", "is no YAML"),
        ("- 1\n#END", "line 1: the file must be a mapping of sections"),
        ("routes: []\n---\nroutes: []\n#END", "line 2: there is a second document"),
        ("routes:\n  - id: a\n  - just text\n#END", "line 3: routes[1]: must be an object"),
        ('{"routes": ["text"]}', "routes[0]: must be an object"),
        ("routes: text\n#END", "line 1: routes: must be a list"),
        ("routes: {a: {uri: /}}\n#END", "line 1: routes: must be a list"),
        ('{"routes": {"a": 1}}', "routes: must be a list"),
        ("routes:\n  - id: a\n  - id: b\n  - id: a\n#END", "line 4: routes[2]: the id 'a' is that of routes[0] too"),
        ("routes:\n  - id: arr_2\n  - uri: /\n#END", "line 3: routes[1]: the id 'arr_2' is that of routes[0] too"),
        ("routes:\n  - id: 1\n  - id: '1'\n#END", "line 3: routes[1]: the id '1'"),
        ("routes: []\nroutes: []\n#END", "line 2: the key 'routes' stands twice"),
        ("routes:\n- id: a\n  uri: /\n  uri: /b\n#END", "line 4: the key 'uri' stands twice"),
        ("routes:\n- id: true\n#END", "line 2: routes[0].id: must be text or an integer"),
        ("routes:\n- id: ''\n#END", "routes[0].id"),
        ("routes:\n- id: .nan\n#END", "line 2: .nan is not something JSON has"),
        ("routes:\n- id: a\n  x: !!binary aGk=\n#END", "line 3: tag:yaml.org,2002:binary is not something JSON has"),
        ("routes:\n- id: a\n  x: !!int text\n#END", "line 3: 'text' is no int"),
        ("routes:\n- id: a\n  x: !!set {a}\n#END", "line 3: tag:yaml.org,2002:set"),
        ("routes:\n- id: a\n  ? [a]\n  : 1\n#END", "line 3: a key must be text"),
        ("routes:\n- id: a\n  x: *nowhere\n#END", "line 3: there is no &nowhere"),
        ("routes:\n- &r\n  id: a\n  x: *r\n#END", "line 4: there is no &r before"),
        ("routes:\n- id: a\n  <<: text\n#END", "line 3: << takes a mapping"),
        ("routes:\n- id: a\n  x: ${{BYTES}}\n#END", "line 2: routes[0]: cannot be written as JSON"),
        ("routes:\n- id: a\n  x: " + "[" * 5000 + "]" * 5000 + "\n#END", "nested too deeply"),
        ("routes:\n- id: a\n  uri: ${{NOWHERE}}\n#END", "line 2: routes[0].uri: the environment has no NOWHERE"),
        ("routes:\n- id: a\n  x: {'${{A:=k}}': 1, k: 2}\n#END", "routes[0].x.k: there is another 'k'"),
    ],
)
def test_what_is_refused_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(StandaloneError) as caught:
        read_standalone(text, {"BYTES": os.fsdecode(b"\xff")})
    assert message in str(caught.value)


def test_unknown_sections_are_ignored_with_a_warning() -> None:
    warnings: list[str] = []
    text = "routes_conf_version: 1\nroute: [{id: a}]\nroutes: [{id: b}]\n#END"
    assert dict(resources(text, {}, warnings.append)) == {"routes/b": b'{"id":"b"}'}
    assert warnings == [
        "line 1: routes_conf_version: unknown section, ignored",
        "line 2: route: unknown section, ignored",
    ]
    warnings.clear()
    assert dict(resources('{"route": [], "routes": []}', {}, warnings.append)) == {}
    assert warnings == ["route: unknown section, ignored"]


def test_variables_are_replaced_in_scalars_and_keys_and_cannot_add_structure() -> None:
    text = """
routes:
  - id: ${{NAME}}
    priority: ${{PRIORITY:=7}}
    enable_websocket: ${{WEBSOCKET:=true}}
    upstream: {nodes: {"${{HOST}}:80": 1}}
    desc: ${{HOSTILE}}
#END
"""
    read = read_standalone(text, {"NAME": "42", "HOST": "a.com", "HOSTILE": "{x: [1]}"})
    assert json.loads(read["routes/42"]) == {
        "id": 42,
        "priority": 7,
        "enable_websocket": True,
        "upstream": {"nodes": {"a.com:80": 1}},
        "desc": "{x: [1]}",
    }


def test_yaml_means_what_json_can_say() -> None:
    text = """
routes:
  - id: a
    on: yes
    404: 010
    date: 2026-11-21
    equals: =
    vars: [[arg_x, ==, "7"], [arg_y, "~~", x]]
    text: !!str 12
    plain: ! 12
    number: 1.5e+3
    nothing: ~
    <<: &limits {burst: 1, rate: 2}
    rate: 3
    more: {<<: [*limits, {burst: 9, x: 1}]}
#END
"""
    assert json.loads(read_standalone(text, {})["routes/a"]) == {
        "id": "a",
        "on": True,
        "404": 8,
        "date": "2026-11-21",
        "equals": "=",
        "vars": [["arg_x", "==", "7"], ["arg_y", "~~", "x"]],
        "text": "12",
        "plain": "12",
        "number": 1500.0,
        "nothing": None,
        "burst": 1,
        "rate": 3,
        "more": {"burst": 1, "rate": 2, "x": 1},
    }


def test_aliases_cannot_stand_for_billions() -> None:
    levels = "\n".join(f"    l{at}: &l{at} [{', '.join([f'*l{at - 1}'] * 10)}]" for at in range(1, 12))
    with pytest.raises(StandaloneError, match="aliases stand for more than"):
        read_standalone(f"routes:\n  - id: a\n    l0: &l0 x\n{levels}\n#END", {})


def test_without_libyaml_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_standalone(EVERYTHING, {})
    monkeypatch.setattr(yaml_values, "_PARSER", yaml.SafeLoader)
    assert read_standalone(EVERYTHING, {}) == expected


def test_writing_leaves_out_what_is_no_resource() -> None:
    values = {"routes/": b"init_dir", "gen_id": b"7", "data_plane/server_info/x": b"{}", "plugins/": b"init_dir"}
    assert write_standalone(values) == "#END\n"


def test_writing_keeps_certificates_readable_and_puts_the_id_first() -> None:
    text = write_standalone({"ssls/1": b'{"cert":"-----BEGIN\\nabc\\n-----END\\n","snis":["a.com"]}'})
    assert text == ("ssls:\n- id: '1'\n  cert: |\n    -----BEGIN\n    abc\n    -----END\n  snis:\n  - a.com\n#END\n")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("routes/1", b"{", "routes/1: is not JSON"),
        ("routes/1", b"[]", "routes/1: must be an object"),
        ("plugins", b"{}", "plugins: must be a list"),
    ],
)
def test_what_cannot_be_written_is_named(key: str, value: bytes, message: str) -> None:
    with pytest.raises(StandaloneError, match=message):
        write_standalone({key: value})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
IDS = st.from_regex(r"[a-zA-Z0-9\-_.]{1,12}", fullmatch=True)
KEYS = st.one_of(
    st.tuples(st.sampled_from([name for name in DIRECTORIES if name not in ("plugins", "secrets")]), IDS).map("/".join),
    st.builds("consumers/{}/credentials/{}".format, IDS, IDS),
    st.builds("secrets/{}/{}".format, st.sampled_from(["vault", "aws", "gcp"]), IDS),
)
OBJECTS = st.dictionaries(st.text(max_size=8) | st.sampled_from(["id", "username", "uri"]), JSON, max_size=4)


def with_identity(key: str, value: dict[str, object]) -> bytes:
    """Write a value as the provider delivers it: with the id of its key."""
    directory, _, id_ = key.partition("/")
    value = {name: member for name, member in value.items() if name not in ("id", "username")}
    name = "username" if directory == "consumers" and "/" not in id_ else "id"
    return msgspec.json.encode({**value, name: id_}, order="sorted")


@given(st.dictionaries(KEYS, OBJECTS, max_size=6), st.none() | st.lists(JSON, max_size=3))
def test_what_was_written_is_read_again(objects: Mapping[str, dict[str, object]], plugins: list[object] | None) -> None:
    values = {key: with_identity(key, value) for key, value in objects.items()}
    if plugins is not None:
        values["plugins"] = msgspec.json.encode(plugins, order="sorted")
    assert read_standalone(write_standalone(values), {}) == values


@given(st.dictionaries(KEYS, OBJECTS.map(msgspec.json.encode), max_size=6))
def test_whatever_the_store_holds_can_be_written_and_keeps_its_keys(values: Mapping[str, bytes]) -> None:
    read = read_standalone(write_standalone(values), {})
    assert read.keys() == values.keys()
    assert read_standalone(write_standalone(read), {}) == read


@given(st.text() | st.text(alphabet="routes:- {}[]&*!|>'\"#\n a1<").map(lambda text: text + "\n#END"))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read = read_standalone(text, {})
    except StandaloneError:
        return
    assert read_standalone(write_standalone(read), {}) == read
