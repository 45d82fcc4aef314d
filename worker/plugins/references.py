"""References in configurations of plugins, and what they stand for (data-model.md section 12)."""

from typing import Any

from config_sync.secrets import Resolver, is_reference


def resolved(value: Any, secrets: Resolver, path: str, missing: list[str]) -> Any:
    """Return a value with the texts its references stand for; the value itself when there are none in it.

    A reference that leads nowhere stays as it is, and its path is added to ``missing``.
    """
    if isinstance(value, str):
        if not is_reference(value):
            return value
        found = secrets.resolve(value)
        if found is None:
            missing.append(path)
            return value
        return found
    if isinstance(value, dict):
        members = {name: resolved(member, secrets, f"{path}.{name}", missing) for name, member in value.items()}
        return members if any(members[name] is not value[name] for name in members) else value
    if isinstance(value, list):
        items = [resolved(item, secrets, f"{path}[{index}]", missing) for index, item in enumerate(value)]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value
