"""``${{NAME}}`` and ``${{NAME:=default}}`` in configuration files, replaced from the environment.

The file is parsed first. What a placeholder becomes is read as a YAML scalar again, so that a number stays a number
and nothing in a variable can change the structure of the file. In a key it is always text.
"""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from config_sync.errors import ConfigError

_PLACEHOLDER = re.compile(r"\$\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*(?::=(.*?))?\}\}")
MARK = "${{"
_ESCAPE = "${{PROPYLON_DOLLAR:=$}}{{"


class VariableError(ConfigError):
    """A placeholder cannot be replaced."""

    def __init__(self, place: str, reason: str) -> None:
        """Point at a place of the file and say what is wrong there."""
        super().__init__(f"{place}: {reason}")


def substituted(value: Any, environment: Mapping[str, str], place: str = "") -> Any:
    """Return ``value`` with the placeholders in its scalars and keys replaced.

    ``place`` is where the value stands in its file, as in "routes[0]", for messages.

    Raises:
        VariableError: a variable is missing and has no default, or two keys have become the same one.
    """
    if isinstance(value, dict):
        members: dict[Any, Any] = {}
        for key, inner in value.items():
            at = f"{place}.{key}".removeprefix(".")
            name = _replaced(key, environment, at) if isinstance(key, str) and MARK in key else key
            if name in members:
                raise VariableError(at, f"there is another {name!r} beside it")
            members[name] = substituted(inner, environment, at)
        return members
    if isinstance(value, list):
        return [substituted(inner, environment, f"{place}[{at}]") for at, inner in enumerate(value)]
    if not isinstance(value, str) or MARK not in value:
        return value
    text = _replaced(value, environment, place)
    try:
        scalar = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return scalar if isinstance(scalar, int | float | bool) else text


def escaped(value: Any) -> Any:
    """Return ``value`` so that ``substituted`` gives it back, whatever looks like a placeholder in it.

    There is no syntax for that; a placeholder whose default is the dollar does it, here and in APISIX.
    """
    if isinstance(value, dict):
        return {escaped(key): escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [escaped(inner) for inner in value]
    return value.replace(MARK, _ESCAPE) if isinstance(value, str) else value


def _replaced(text: str, environment: Mapping[str, str], place: str) -> str:
    def replace(found: re.Match[str]) -> str:
        name, default = found[1], found[2]
        replacement = environment.get(name, default)
        if replacement is None:
            raise VariableError(place, f"the environment has no {name}; set it or write a default")
        return replacement

    return _PLACEHOLDER.sub(replace, text)
