"""What can be wrong with configuration.

- ConfigError
    - SettingsError: the start-up settings
    - InvalidResource: one value in the store
    - StandaloneError: a standalone file
    - StoreError: talking to the store
        - RevisionCompacted: history that is gone
        - WriteConflict: a write that somebody else has overtaken
"""


class ConfigError(Exception):
    """Something is wrong with configuration."""


class SettingsError(ConfigError):
    """The settings file is not usable; the message names file and key."""


class InvalidResource(ConfigError):
    """A value of the store is not what its kind demands."""

    def __init__(self, path: str, reason: str) -> None:
        """Point at a place in the value (JSON path) and say what is wrong there."""
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class StandaloneError(ConfigError):
    """A standalone file is not usable; nothing of it is used."""

    def __init__(self, reason: str, line: int = 0) -> None:
        """Say what is wrong and in which line, counted from 1; 0 when that is not known."""
        super().__init__(f"line {line}: {reason}" if line else reason)
        self.reason = reason
        self.line = line


class StoreError(ConfigError):
    """The store did not answer as it should."""


class RevisionCompacted(StoreError):
    """The store has forgotten this revision."""

    def __init__(self, oldest: int) -> None:
        """Name the oldest revision that is kept, 0 when it is not known."""
        kept = f"; revisions from {oldest} on are kept" if oldest else ""
        super().__init__(f"etcd has compacted its history: this revision is gone{kept}")
        self.oldest = oldest


class WriteConflict(StoreError):
    """Somebody else has written these keys since they were read."""

    def __init__(self, keys: list[str]) -> None:
        """Name the keys, below the prefix."""
        super().__init__(f"{', '.join(keys[:5])}{', …' if len(keys) > 5 else ''}: written by somebody else meanwhile")
        self.keys = keys
