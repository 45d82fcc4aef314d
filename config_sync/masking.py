"""Secrets taken out of what is shown.

Known places are masked by their paths; in plugins' configurations, which may be anybody's, texts whose names end like
those of secrets are masked too. References to secrets are shown: they give nothing away.
"""

import re
from collections.abc import Mapping
from typing import Any

from config_sync import sensitive
from config_sync.secrets import is_reference
from config_sync.sensitive import Path

MASK = "***"
_SECRET_NAME = re.compile(
    r"(pass(word|wd|phrase)|secret|token|credential|authorization|(private|client|secret|access|api)_?key)s?$", re.I
)
_DEEPEST = 100  # levels that are shown
_CLIENT_KEY = ("tls", "client_key")
_INLINE: tuple[Path, ...] = (("upstream", *_CLIENT_KEY),)
_PATHS: Mapping[str, tuple[Path, ...]] = {
    "routes": _INLINE,
    "services": _INLINE,
    "stream_routes": _INLINE,
    "upstreams": (_CLIENT_KEY,),
    "ssls": (("key",), ("keys",)),
    "ssl": (("key",), ("keys",)),
    "secrets": (("token",), ("secret_access_key",), ("session_token",), ("auth_config", "private_key")),
}


def masked(directory: str, value: Any) -> Any:
    """Return a copy of a decoded value of a directory with ``***`` in the place of secrets."""
    copy = _copy(value, directory == "plugin_metadata")
    if not isinstance(copy, dict):
        return copy
    for path in _PATHS.get(directory, ()):
        sensitive.rewrite(copy, path, _mask)
    if directory == "plugin_metadata":
        for path in {path for paths in sensitive.METADATA.values() for path in paths}:
            sensitive.rewrite(copy, path, _mask)
    plugins = copy.get("plugins")
    if isinstance(plugins, dict):
        copy["plugins"] = _masked_plugins(plugins, sensitive.CONSUMER if directory == "consumers" else sensitive.PLUGIN)
    return copy


def _masked_plugins(plugins: dict[str, Any], tables: sensitive.Paths) -> dict[str, Any]:
    for name, config in plugins.items():
        plugins[name] = _copy(config, hides=True)
        for path in tables.get(name, ()):
            sensitive.rewrite(plugins[name], path, _mask)
    return plugins


def _copy(value: Any, hides: bool, depth: int = 0) -> Any:
    """Copy a value; with ``hides``, texts with names of secrets are masked."""
    if depth > _DEEPEST and isinstance(value, dict | list):
        return MASK
    if isinstance(value, list):
        return [_copy(item, hides, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    copy = {}
    for name, member in value.items():
        copied = _copy(member, hides, depth + 1)
        copy[name] = sensitive.rewrite(copied, (), _mask) if hides and _SECRET_NAME.search(name) else copied
    return copy


def _mask(text: str) -> str:
    return text if is_reference(text) else MASK
