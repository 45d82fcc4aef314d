"""Where a secret manager is asked, and what comes of it."""

from typing import Any, Protocol


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
