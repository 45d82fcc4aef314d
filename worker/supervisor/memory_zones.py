"""The zones of ``proxy-cache`` in memory: where they are, and who takes them away when their gateway has ended.

They are directories of /dev/shm, which outlive processes: a reload and an upgrade, so that nothing is lost, and a
gateway that is killed, so that another has to take them away. The name tells the user and the runtime directory of the
gateway they belong to; a file in them tells the runtime directory in full.
"""

import contextlib
import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

from config_sync.settings import Settings
from worker.supervisor.files import MASTER_STATE, is_alive, read_record

MEMORY = Path("/dev/shm")  # noqa: S108 - memory that has a name; see Zone for who may use what is in it
OWNER = "owner"
_PREFIX = "propylon-cache"


def memory_directory(settings: Settings, name: str) -> Path:
    """Return the directory of a zone in memory, which no other gateway has; asked by a worker."""
    if MEMORY.is_dir():
        return MEMORY / f"{_PREFIX}-{os.geteuid()}-{_digest(settings.runtime_dir)}-{name}"
    return settings.path(f"cache-{name}")


def claim(directory: Path, settings: Settings) -> None:
    """Note whose zone a directory is; raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(directory / OWNER, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(os.path.abspath(settings.runtime_dir))


def remove_own(settings: Settings) -> None:
    """Take away the zones of this gateway, which serves no more, or not yet."""
    for directory, digest in _zones(settings):
        if digest == _digest(settings.runtime_dir):
            shutil.rmtree(directory, ignore_errors=True)


def remove_stale(settings: Settings) -> None:
    """Take away the zones of gateways of the same user that are dead."""
    for directory, digest in _zones(settings):
        runtime = _runtime_of(directory)
        if runtime and digest == _digest(runtime) and not _is_living(Path(runtime)):
            shutil.rmtree(directory, ignore_errors=True)


def _zones(settings: Settings) -> Iterator[tuple[Path, str]]:
    """Yield the directories that workers of our user have made, with the digest in their names."""
    uid = _uid(settings)
    for directory in MEMORY.glob(f"{_PREFIX}-{uid}-*-*"):
        with contextlib.suppress(OSError):
            found = os.lstat(directory)
            if stat.S_ISDIR(found.st_mode) and found.st_uid == uid:
                yield directory, directory.name.removeprefix(f"{_PREFIX}-{uid}-").partition("-")[0]


def _uid(settings: Settings) -> int:
    """Return whom the workers run as."""
    if settings.user and os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(settings.user.partition(":")[0]).pw_uid
    return os.geteuid()


def _digest(runtime_dir: str) -> str:
    return blake2b(os.path.abspath(runtime_dir).encode(), digest_size=8).hexdigest()


def _runtime_of(directory: Path) -> str | None:
    try:
        return (directory / OWNER).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None  # it is just being made, or of another version


def _is_living(runtime: Path) -> bool:
    pid = read_record(runtime / MASTER_STATE).get("pid")
    return isinstance(pid, int) and is_alive(pid)
