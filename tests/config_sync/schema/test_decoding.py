"""What holds for every kind: both ways of decoding agree, and nothing does worse than being refused."""

import contextlib
import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from config_sync.encryption import Keyring
from config_sync.errors import InvalidResource
from config_sync.schema import DIRECTORIES, decode_route, decoders
from tests.config_sync.schema.values import EXAMPLES, KEYS, raw

KINDS = pytest.mark.parametrize(("directory", "id_", "value"), EXAMPLES, ids=[f"{d}/{i}" for d, i, _ in EXAMPLES])


def test_every_directory_has_a_decoder_and_an_example() -> None:
    assert list(decoders()) == list(DIRECTORIES)
    assert {directory for directory, _, _ in EXAMPLES} == set(DIRECTORIES) - {"ssl", "proto"}


@KINDS
def test_examples_are_good(directory: str, id_: str, value: Any) -> None:
    resource, warnings = decoders(Keyring(KEYS))[directory](id_, raw(value))
    assert warnings == []
    if directory != "plugins":
        assert resource.id == id_


@KINDS
def test_the_way_of_writing_does_not_matter(directory: str, id_: str, value: Any) -> None:
    decode = decoders(Keyring(KEYS))[directory]
    expected, _ = decode(id_, raw(value))
    for other in (with_fractions(value), with_other_empties(value)):
        assert decode(id_, raw(other))[0] == expected
    if isinstance(value, dict) and directory != "plugin_metadata":
        resource, warnings = decode(id_, raw({**value, "status_of_tool": {"a": None}}))
        assert (resource, warnings) == (expected, ["$.status_of_tool: unknown field, ignored"])


def with_fractions(value: Any) -> Any:
    """Write 1 as 1.0, except in what plugins own."""
    if isinstance(value, dict):
        return {
            name: member if name in ("plugins", "conf", "metadata") else with_fractions(member)
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [with_fractions(member) for member in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def with_other_empties(value: Any) -> Any:
    """Write {} as [] and the other way round."""
    if value in ([], {}):
        return {} if isinstance(value, list) else []
    if isinstance(value, dict):
        return {name: with_other_empties(member) for name, member in value.items()}
    return [with_other_empties(member) for member in value] if isinstance(value, list) else value


def test_warnings_are_few() -> None:
    _, warnings = decode_route("1", raw({"uri": "/", "plugins": {}, **{f"x{n}": n for n in range(50)}}))
    assert len(warnings) == 21
    assert warnings[-1] == "and 30 more"


@pytest.mark.parametrize("directory", DIRECTORIES)
@pytest.mark.parametrize(
    "value",
    [
        *(
            b"",
            b"init_dir",
            b"1",
            b'"x"',
            b"{",
            b"\xff",
            b"null",
            b'{"id":"\xff"}',
            b'{"id":null}',
            b'{"plugins":1e999}',
        ),
        b'{"plugins":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"plugins":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b'[{"name":' + b"[" * 5000 + b"]" * 5000 + b"}]",
    ],
)
def test_what_is_no_resource(directory: str, value: bytes) -> None:
    id_ = "vault/1" if directory == "secrets" else "1"
    if directory == "plugin_metadata" and value == b'{"id":null}':
        return
    with pytest.raises(InvalidResource):
        decoders(Keyring(KEYS))[directory](id_, value)


STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 1e308, 2**63, 2**64, 10**30, "", "\0", "x" * 5000, "\u2028", "a\n", "$env://A"),
    *([], {}, [[]], [None], {"": ""}, {"_meta": 1}, ["OR", ["a"]], "4y+JvURBE6ZwRbbgaryrhg==", "(" * 50),
]


def mutations(count: int) -> Iterator[tuple[str, str, bytes]]:
    """Damage examples: their bytes, or the values in them."""
    chance = random.Random(7)
    texts = [(directory, id_, json.dumps(value)) for directory, id_, value in EXAMPLES]
    for at in range(count):
        directory, id_, text = texts[at % len(texts)]
        if chance.random() < 0.3:
            yield directory, id_, damaged_bytes(chance, text.encode())
            continue
        value = json.loads(text)
        for _ in range(chance.randint(1, 3)):
            value = damaged(chance, value)
        yield directory, id_, raw(value)


def damaged_bytes(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    match chance.randrange(4):
        case 0:
            del changed[chance.randrange(len(changed)) :]
        case 1:
            at = chance.randrange(len(changed))
            changed[at:at] = chance.choice(
                [b"[" * 2000, b'{"a":' * 2000, b"9" * 400, b"\xed\xa0\x80", b"\\ud800", b"null"]
            )
        case 2:
            start = chance.randrange(len(changed))
            del changed[start : start + chance.randint(1, 20)]
        case _:
            for _ in range(chance.randint(1, 5)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def damaged(chance: random.Random, value: Any) -> Any:
    """Change one place somewhere in a value."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(list(value))
        match chance.randrange(8):
            case 0:
                del value[name]
            case 1:
                value[chance.choice(["x", "_meta", "disable", "nodes", "key", "plugins", name * 2])] = copy.deepcopy(
                    value[name]
                )
            case _:
                value[name] = damaged(chance, value[name])
        return value
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        value[at] = damaged(chance, value[at])
        return value + copy.deepcopy(value) if chance.random() < 0.1 else value
    if isinstance(value, str) and value and chance.random() < 0.5:
        at = chance.randrange(len(value))
        return value[:at] + chance.choice(["", " ", "/", ":", "*", "\n", "é", "(", "[", "0"]) + value[at + 1 :]
    return copy.deepcopy(chance.choice(STRANGE))


def test_damaged_values_are_read_or_refused() -> None:
    decode = decoders(Keyring(KEYS))
    read = 0
    for directory, id_, data in mutations(50_000):
        with contextlib.suppress(InvalidResource):
            resource, warnings = decode[directory](id_, data)
            assert resource is not None
            assert isinstance(warnings, list)
            read += 1
    # Neither all nor nothing: the damage is of a kind that matters.
    assert 5_000 < read < 45_000
