"""Where a secret manager is asked, and what comes of it."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from config_sync.secrets import Resolver, is_reference

ANSWER_TIME = 5.0  # seconds
LARGEST = 1024 * 1024  # bytes of an answer


class SecretNotThere(Exception):
    """The manager has nothing of that name; said by itself."""


class SecretFailed(Exception):
    """The manager cannot be asked, or does not answer as it should: nothing is known of what it has."""


class SecretSource(Protocol):
    """One manager, as ``secrets/<manager>/<id>`` describes it."""

    async def fetch(self, name: str) -> dict[str, Any] | str:
        """Return what it has of a name: values by key, or one text.

        Raises:
            SecretNotThere: nothing.
            SecretFailed: it cannot be known.
        """


class Plain:
    """Settings whose texts may refer to the environment."""

    def __init__(self, settings: msgspec.Struct, environment: Resolver) -> None:
        self._settings = settings
        self._environment = environment

    def __getitem__(self, field: str) -> str:
        """Return a setting, which must be given; SecretFailed when it leads nowhere."""
        text: str = getattr(self._settings, field)
        found = self._environment.resolve(text) if is_reference(text) else text
        if found is None:
            raise SecretFailed(f"nothing is known of what {field} refers to")
        return found


def decoded_object(body: bytes, whose: str) -> Mapping[str, Any]:
    """Return a JSON object; SecretFailed when it is none."""
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise SecretFailed(f"what {whose} answers cannot be read") from error
