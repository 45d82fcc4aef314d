"""References in configurations of plugins, what they stand for, and who has them (data-model.md section 12)."""

import re
from collections.abc import Callable
from typing import Any

from config_sync.secrets import Place, is_reference, places_in

PLUGIN_BEARING = frozenset(("routes", "services", "plugin_configs", "consumers", "consumer_groups", "global_rules"))
"""The directories whose records have plugins."""

_STEP = re.compile(r"\.([^.\[]+)|\[([^\]]*)\]")
_ANY = "..."  # what msgspec says instead of an index, or of the name in a mapping

Resolve = Callable[[str], str | None]


def resolved(value: Any, resolve: Resolve, path: str, missing: dict[str, str]) -> Any:
    """Return a value with the texts its references stand for; the value itself when there are none in it.

    A reference that leads nowhere stays as it is, and is added to ``missing`` by its path.
    """
    if isinstance(value, str):
        if not is_reference(value):
            return value
        found = resolve(value)
        if found is None:
            missing[path] = value
            return value
        return found
    if isinstance(value, dict):
        members = {name: resolved(member, resolve, f"{path}.{name}", missing) for name, member in value.items()}
        return members if any(members[name] is not value[name] for name in members) else value
    if isinstance(value, list):
        items = [resolved(item, resolve, f"{path}[{index}]", missing) for index, item in enumerate(value)]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def is_same_place(path: str, other: str) -> bool:
    """Tell whether two JSON paths lead to the same place, however indexes and names are written in them."""
    steps, others = _steps(path), _steps(other)
    return len(steps) == len(others) and all(
        one == another or _ANY in (one, another) for one, another in zip(steps, others, strict=True)
    )


def _steps(path: str) -> list[str]:
    return [name or index.strip("'\"") for name, index in _STEP.findall(path)]


def places_of(directory: str, new: Any) -> frozenset[Place]:
    """Return the secrets that the plugins of a record refer to."""
    return places_in(new.plugins) if new is not None and directory in PLUGIN_BEARING else frozenset()


class Referring:
    """Which records refer to which secrets."""

    __slots__ = ("_keys", "_places")

    def __init__(self) -> None:
        self._keys: dict[Place, set[str]] = {}
        self._places: dict[str, frozenset[Place]] = {}

    def note(self, key: str, places: frozenset[Place]) -> None:
        """Let a record refer to these, and no others."""
        for place in self._places.pop(key, ()):
            keys = self._keys[place]
            keys.discard(key)
            if not keys:
                del self._keys[place]
        if places:
            self._places[key] = places
        for place in places:
            self._keys.setdefault(place, set()).add(key)

    def has(self, key: str) -> bool:
        """Tell whether a record refers to any."""
        return key in self._places

    def keys_of(self, place: Place) -> list[str]:
        """Return the records that refer to a secret."""
        return list(self._keys.get(place, ()))

    def keys(self) -> list[str]:
        """Return all that refer to any."""
        return list(self._places)

    def __contains__(self, place: Place) -> bool:
        return place in self._keys
