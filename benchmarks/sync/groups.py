"""Keys that are only ever written together, each transaction with a token of its own.

Whoever sees two tokens in a group, or a part of its keys, has seen half a transaction.
"""

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

PREFIX = "/apisix/"
PROBE = "routes/probe"  # written to find out how far others are
_TOKEN_DIGITS = 12
_TOKEN = slice(len('{"desc":"'), len('{"desc":"') + _TOKEN_DIGITS)
_UPSTREAM: dict[str, Any] = {"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1, "127.0.0.1:1981": 2}}
_LABELS = {f"label-{number}": "x" * 40 for number in range(8)}  # a value has about 500 bytes

# What a value of a directory holds beside the token.
_BODIES: dict[str, dict[str, Any]] = {
    "routes": {"uri": "/soak/*", "methods": ["GET"], "labels": _LABELS, "upstream": _UPSTREAM},
    "services": {"labels": _LABELS, "upstream": _UPSTREAM},
    "upstreams": {"labels": _LABELS, **_UPSTREAM},
    "plugin_configs": {"labels": _LABELS, "plugins": {}},
}
# Of ten keys so many are in each directory.
_MIX = ("routes",) * 5 + ("services",) * 2 + ("upstreams",) * 2 + ("plugin_configs",)


@dataclass(frozen=True)
class Place:
    """A directory and an id in it."""

    directory: str
    id: str

    @property
    def key(self) -> str:
        """The key below the prefix."""
        return f"{self.directory}/{self.id}"


class Groups:
    """All keys, in groups of one to five."""

    def __init__(self, keys: int, chance: random.Random) -> None:
        places = [Place(_MIX[number % len(_MIX)], str(number)) for number in range(keys)]
        chance.shuffle(places)
        self.members: list[tuple[Place, ...]] = []
        while places:
            size = chance.randint(1, 5)
            self.members.append(tuple(places[:size]))
            del places[:size]
        self._of = {(place.directory, place.id): group for group in self.members for place in group}
        self._tokens = count(1)

    def of(self, directory: str, id_: str) -> tuple[Place, ...] | None:
        """Return the group a key is in; None for a key that is not ours."""
        return self._of.get((directory, id_))

    def write(self, chance: random.Random) -> dict[str, bytes | None]:
        """Make a transaction: values by key below the prefix, all None for a deletion."""
        group = chance.choice(self.members)
        if chance.random() < 0.2:
            return dict.fromkeys(place.key for place in group)
        token = next(self._tokens)
        return {place.key: value_of(place.directory, token) for place in group}


def value_of(directory: str, token: int) -> bytes:
    """Return a value that carries a token."""
    value = {"desc": f"{token:0{_TOKEN_DIGITS}d}", **_BODIES[directory]}
    return json.dumps(value, separators=(",", ":")).encode()


def half_seen(
    changed: Iterable[tuple[str, str]], groups: Groups, raw: Callable[[Place], bytes | None]
) -> list[Mapping[str, str]]:
    """Return the groups among those changed that are not of one transaction, as tokens by key."""
    halves: list[Mapping[str, str]] = []
    for group in {found for place in changed if (found := groups.of(*place)) is not None}:
        tokens = {place.key: _token(raw(place)) for place in group}
        if len(set(tokens.values())) > 1:
            halves.append(tokens)
    return halves


def _token(raw: bytes | None) -> str:
    return "absent" if raw is None else raw[_TOKEN].decode()


def operations(write: Mapping[str, bytes | None], encode: Callable[[str | bytes], str]) -> Sequence[Mapping[str, Any]]:
    """Return a transaction as etcd's gateway takes it."""
    return [
        {"request_delete_range": {"key": encode(PREFIX + key)}}
        if value is None
        else {"request_put": {"key": encode(PREFIX + key), "value": encode(value)}}
        for key, value in write.items()
    ]
