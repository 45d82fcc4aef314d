"""What differs between two configurations.

Two values are equal when they say the same: spacing, the order of members and the member ``id``, which is taken
from the key anyway (data-model.md section 1), make no difference.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True)
class Comparison:
    """Keys, below the prefix and sorted, by what has to be done to get from one configuration to the other."""

    added: list[str]
    changed: list[str]
    removed: list[str]
    equal: int

    def is_empty(self) -> bool:
        """Tell whether there is no difference."""
        return not (self.added or self.changed or self.removed)


def compare(wanted: Mapping[str, bytes], stored: Mapping[str, bytes]) -> Comparison:
    """Find what leads from ``stored`` to ``wanted``; both are values by key below the prefix."""
    both = sorted(wanted.keys() & stored.keys())
    changed = [key for key in both if wanted[key] != stored[key] and not says_the_same(wanted[key], stored[key])]
    return Comparison(
        added=sorted(wanted.keys() - stored.keys()),
        changed=changed,
        removed=sorted(stored.keys() - wanted.keys()),
        equal=len(both) - len(changed),
    )


def says_the_same(one: bytes, other: bytes) -> bool:
    """Tell whether two values differ in nothing that matters; what is no JSON is equal to itself alone."""
    return _meaning(one) == _meaning(other)


def _meaning(raw: bytes) -> bytes:
    try:
        return msgspec.json.encode(_decoded(raw), order="deterministic")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return raw


def _decoded(raw: bytes) -> Any:
    value = msgspec.json.decode(raw)
    if isinstance(value, dict):
        value.pop("id", None)
    return value


def changed_paths(old: bytes | None, new: bytes | None) -> list[str]:
    """Name the JSON paths at which two values differ; ``$`` when one of them is missing or no JSON."""
    try:
        return list(_differing(_decoded(old or b""), _decoded(new or b""), "$"))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return [] if old == new else ["$"]


def _differing(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            inner = f"{path}.{name}" if name.isidentifier() else f"{path}[{name!r}]"
            if name in old and name in new:
                yield from _differing(old[name], new[name], inner)
            else:
                yield inner
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for at, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differing(before, after, f"{path}[{at}]")
    elif type(old) is not type(new) or old != new:
        yield path


def readable(raw: bytes) -> str:
    """Lay a value out for people, members sorted."""
    try:
        return msgspec.json.format(msgspec.json.encode(msgspec.json.decode(raw), order="sorted"), indent=2).decode()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return raw.decode("utf-8", "replace")
