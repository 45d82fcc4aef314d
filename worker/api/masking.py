"""Hides secrets in values that are shown to people.

Names decide, and only where secrets are kept: below ``plugins`` and ``tls``, and in certificates, secrets and plugin
metadata. A reference such as ``$env://TOKEN`` tells where a secret is, not what it is, and is left.
"""

from typing import Any

MASK = "***"
_SECRET_DIRECTORIES = frozenset(("ssls", "ssl", "secrets", "plugin_metadata"))
_SECRET_PARTS = frozenset(("plugins", "tls"))
_WORDS = ("password", "passwd", "secret", "token", "credential", "authorization", "private")
_NAMES = frozenset(("key", "keys", "auth", "pass"))
_REFERENCES = ("$env://", "$ENV://", "$secret://")


def masked(directory: str, value: Any) -> Any:
    """Return a copy of a value of this directory without its secrets."""
    return _masked(value, directory in _SECRET_DIRECTORIES, False)


def _masked(value: Any, is_sensitive: bool, is_secret: bool) -> Any:
    if isinstance(value, dict):
        return {
            name: _masked(
                inner, is_sensitive or name in _SECRET_PARTS, is_secret or (is_sensitive and _names_a_secret(name))
            )
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_masked(inner, is_sensitive, is_secret) for inner in value]
    if not is_secret or isinstance(value, bool | None) or (isinstance(value, str) and value.startswith(_REFERENCES)):
        return value
    return MASK


def _names_a_secret(name: str) -> bool:
    name = name.lower().replace("-", "_")
    return name in _NAMES or name.endswith("_key") or any(word in name for word in _WORDS)
