"""What can be wrong with configuration.

- ConfigError
    - SettingsError: the start-up settings
    - InvalidResource: one value in the store
    - StoreError: talking to the store
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


class StoreError(ConfigError):
    """The store did not answer as it should."""
