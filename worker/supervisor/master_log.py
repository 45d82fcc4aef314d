"""MasterLog: the error log of the master, which must never end it."""

import logging

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from worker.supervisor.files import give_error_log, open_error_log, prepare_access_log

log = logging.getLogger("propylon.master")


class MasterLog:
    """The open error log."""

    def __init__(self, settings: Settings) -> None:
        """Open it, and see that workers can open theirs; raises SettingsError."""
        self._log = open_error_log(settings)
        prepare_access_log(settings)

    def reopen(self, settings: Settings) -> None:
        """Open it anew by its name."""
        try:
            self._log.reopen()
            give_error_log(settings)
            prepare_access_log(settings)
        except (OSError, SettingsError) as error:
            log.error("cannot reopen the logs: %s", error)

    def replace(self, settings: Settings) -> None:
        """Go on with the log of other settings."""
        try:
            self._log = open_error_log(settings)  # which closes the one there was
        except SettingsError as error:
            log.error("%s; the old one stays in use", error)
