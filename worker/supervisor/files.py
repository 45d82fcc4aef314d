"""The files of the running gateway: the runtime directory, the pid file, the error log, the outcome of a reload.

Workers, which may have fewer rights than the master, can write to the directory, too: nothing in it is trusted, and
nothing is written through a link.
"""

import contextlib
import grp
import json
import os
import pwd
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from config_sync.errors import SettingsError
from config_sync.settings import Settings
from worker.observability.line_file import check_writable
from worker.observability.logs import ErrorLog

RELOAD_RESULT = "reload.json"
UPGRADE_RESULT = "upgrade.json"
MASTER_STATE = "master.json"
OLD_SUFFIX = ".oldbin"
PROGRAMS = (b"propylon", b"master.py")


class PidFile:
    """The file that tells which process to signal."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self) -> None:
        """Enter our pid.

        Raises:
            SettingsError: another master is alive, or the file cannot be written.
        """
        pid = self.read()
        if pid is not None and pid != os.getpid() and is_alive(pid):
            raise SettingsError(f"pid: {self._path} names process {pid}, which is running; stop it first")
        try:
            write_own(self._path, f"{os.getpid()}\n")
        except OSError as error:
            raise SettingsError(f"pid: cannot write {self._path}: {error.strerror}") from error

    def read(self) -> int | None:
        """Return the pid in it."""
        try:
            return int(self._path.read_text())
        except (OSError, ValueError):
            return None

    def set_aside(self) -> None:
        """Make room for a new master's, under the name with ``.oldbin`` behind it.

        Raises:
            OSError: it cannot be renamed.
        """
        aside = self._path.with_name(self._path.name + OLD_SUFFIX)
        self._path.rename(aside)
        self._path = aside

    def take_back(self) -> None:
        """Give it its name again; nothing happens when it has it.

        Raises:
            OSError: it cannot be renamed.
        """
        name = self._path.with_name(self._path.name.removesuffix(OLD_SUFFIX))
        if name != self._path:
            self._path.rename(name)
            self._path = name

    def remove_old(self) -> None:
        """Take away what a master before us has set aside, if it is dead."""
        old = PidFile(self._path.with_name(self._path.name + OLD_SUFFIX))
        pid = old.read()
        if pid is not None and not is_alive(pid):
            old._path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take it away if it is ours."""
        if self.read() == os.getpid():
            self._path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Tell whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_master(pid: int, owners: Collection[int]) -> bool:
    """Tell whether a process is a master of this program, of one of these users: a pid file may say anything."""
    process = Path(f"/proc/{pid}")
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        owner = process.stat().st_uid
    except OSError:
        return False
    return owner in owners and any(os.path.basename(word) in PROGRAMS for word in words[:4])


def give_to_user(path: Path, settings: Settings) -> None:
    """Hand a file over to whom the workers run as, when we are root; raises SettingsError."""
    if not settings.user or os.geteuid() != 0:
        return
    user, _, group = settings.user.partition(":")
    try:
        gid = grp.getgrnam(group).gr_gid if group else -1
        # A worker may have put a link there, to what is not its own.
        os.chown(path, pwd.getpwnam(user).pw_uid, gid, follow_symlinks=False)
    except (OSError, KeyError) as error:
        raise SettingsError(f"user: {error}") from error


def prepare_runtime_dir(settings: Settings) -> None:
    """Make the directory for the files of the running gateway; raises SettingsError."""
    path = Path(settings.runtime_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"runtime_dir: {path}: {error.strerror}") from error
    give_to_user(path.resolve(), settings)


def remove_health_locks(settings: Settings) -> None:
    """Remove the locks of masters that are dead, or are about to be: each has its own (``HEALTH_LOCK``)."""
    for lock in Path(settings.runtime_dir).glob("health-*.lock"):
        pid = lock.stem.partition("-")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or not is_alive(int(pid))):
            with contextlib.suppress(OSError):
                lock.unlink()


def remove_stale_locks(settings: Settings) -> None:
    """Remove lock files that workers of another user have left, and ours could not open; while none are running."""
    if settings.user and os.geteuid() == 0:
        for lock in Path(settings.runtime_dir).glob("*.lock"):
            with contextlib.suppress(OSError):
                lock.unlink()


def write_own(path: Path, text: str) -> None:
    """Write a file in a directory that the workers, who may have fewer rights than we, can write to, too.

    Raises:
        OSError: it cannot be written, or something other than a file has been put in its place.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags, 0o644), "w", encoding="utf-8") as file:
        file.write(text)


def claim_standard_streams() -> None:
    """Let nothing of ours become standard input, output or error by chance, when we were started without them."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def open_error_log(settings: Settings) -> ErrorLog:
    """Open the log the settings name, in place of what is open; raises SettingsError, and then that stays in use."""
    try:
        opened = ErrorLog(settings.error_log_path(), settings.log_level, in_thread=False)
    except OSError as error:
        raise SettingsError(f"error_log: {error}") from error
    give_error_log(settings)
    return opened


def check_logs(settings: Settings) -> None:
    """See that the logs the settings name can be opened, by us and by the workers; raises SettingsError."""
    path = settings.error_log_path()
    if path is not None:
        try:
            check_writable(path)
        except OSError as error:
            raise SettingsError(f"error_log: {error}") from error
        give_error_log(settings)
    prepare_access_log(settings)


def give_error_log(settings: Settings) -> None:
    """Let the workers write to the log that the master has opened; raises SettingsError."""
    path = settings.error_log_path()
    if path is not None:
        give_to_user(path, settings)


def prepare_access_log(settings: Settings) -> None:
    """Make the file that the workers log requests to, who may have fewer rights than we; raises SettingsError."""
    path = settings.access_log_path()
    if path is None:
        return
    try:
        # Not through a link: whoever can put one there must not choose what we make.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    except FileExistsError:
        return
    except OSError as error:
        raise SettingsError(f"access_log: {error}") from error
    give_to_user(path, settings)


def write_record(path: Path, record: Mapping[str, object]) -> None:
    """Write what others are to read as JSON: all of it or, when the disk is full, nothing."""
    part = path.with_suffix(".tmp")
    with contextlib.suppress(OSError):
        write_own(part, json.dumps(record))
        part.replace(path)


def read_record(path: Path) -> dict[str, object]:
    """Return what ``write_record`` wrote; empty when there is nothing."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_reload_result(settings: Settings, generation: int, ok: bool, reason: str, began_ns: int) -> None:
    """Leave the outcome of a reload that began at a time of the monotonic clock; for ``-s reload`` and for people."""
    result = {"time": time.time_ns(), "generation": generation, "ok": ok, "reason": reason, "began_ns": began_ns}
    write_record(settings.path(RELOAD_RESULT), result)


def reload_result(settings: Settings) -> dict[str, object]:
    """Return what the master wrote of its last reload."""
    return read_record(settings.path(RELOAD_RESULT))
