"""Zone: a directory of entries that all workers of a node share, of a bounded size.

    ab/ab12…    entries by name; modified when they end, accessed when they were last read, to the second
    lock/       a file for each entry that somebody is fetching
    new/        what is being written; it is renamed when it is complete
    usage       8 bytes: how many bytes there are
    sweep       locked by whoever throws away what has ended, and the least recently read when there is too much

A zone in memory is a directory of /dev/shm, where reading and writing waits for nobody. Nothing here knows what an
entry is. Everything may be called in a thread; only ``sweep`` has to be, and all of a zone on disk.
"""

import fcntl
import logging
import mmap
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from worker.shared_state.locks import Locks

log = logging.getLogger("propylon.plugins")

LOCK_AGE = 10.0  # seconds after which a lock is nobody's
KEPT_AFTER_END = 60.0  # seconds: what has ended is told apart from what never was
READ_AGAIN = 1.0  # seconds after which it is noted that an entry is still read
LARGEST_SHARE = 4  # of a zone one entry may have the fourth part
SWEEP_FROM, SWEEP_TO = 0.95, 0.8  # of its size
_WORD = 8


class Zone:
    """Entries by name; a name is lower case hexadecimal."""

    def __init__(self, directory: Path, limit: int, is_in_memory: bool) -> None:
        """Open a directory, which is made if need be.

        Raises:
            OSError: it cannot be used, or somebody else can write to it.
        """
        self.limit = limit
        self.is_in_memory = is_in_memory
        self.is_full = False  # something could not be written for want of room
        self._directory = str(directory)
        self._numbers = count()
        self._thread_lock = threading.Lock()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(directory)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{directory} is not a directory that nobody else can write to")
        for name in ("lock", "new"):
            (directory / name).mkdir(mode=0o700, exist_ok=True)
        usage = os.open(f"{directory}/usage", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(usage, _WORD)
        self._usage = memoryview(mmap.mmap(usage, _WORD)).cast("q")
        self._locks = Locks(usage)

    # entries

    def read(self, name: str, most: int = -1) -> bytes | None:
        """Return an entry, None when there is none.

        Raises:
            OverflowError: it has more bytes than ``most``, unless that is negative.
        """
        try:
            fd = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            found, now = os.fstat(fd), time.time()
            size = found.st_size
            if 0 <= most < size:
                raise OverflowError(size)
            if now - found.st_atime > READ_AGAIN:  # not every file system notes it
                os.utime(fd, (now, found.st_mtime))
            return _read(fd, size)
        except OSError:
            return None
        finally:
            os.close(fd)

    def write(self, name: str, data: bytes, ends: float) -> bool:
        """Write an entry in place of the one there is; False when there is no room for it."""
        size = len(data)
        if size > self.limit // LARGEST_SHARE:
            return False
        if self._usage[0] + size > self.limit:
            self.is_full = True
            return False
        path = self._path(name)
        new = f"{self._directory}/new/{os.getpid()}-{threading.get_ident()}-{next(self._numbers)}"
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write(fd, data)
                os.utime(fd, (time.time(), ends))
            finally:
                os.close(fd)
            replaced = self._size(path)
            try:
                os.rename(new, path)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                os.rename(new, path)
        except OSError as error:
            log.warning("cache %s: cannot write: %s", self._directory, error)
            _unlink(new)
            return False
        self._add(size - replaced)
        return True

    def remove(self, name: str) -> bool:
        """Throw an entry away; tell whether there was one."""
        path = self._path(name)
        size = self._size(path)
        if not _unlink(path):
            return False
        self._add(-size)
        return True

    @property
    def usage(self) -> int:
        """How many bytes there are."""
        return self._usage[0]

    # locks

    def lock(self, name: str) -> bool:
        """Say that we are fetching an entry; False when somebody else is."""
        path = f"{self._directory}/lock/{name}"
        for _ in range(2):
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            except FileExistsError:
                if self.is_locked(name):
                    return False
                _unlink(path)
            except OSError:
                return True  # better all than none
            else:
                return True
        return False

    def is_locked(self, name: str) -> bool:
        """Tell whether somebody is fetching an entry."""
        try:
            return os.stat(f"{self._directory}/lock/{name}").st_mtime > time.time() - LOCK_AGE
        except OSError:
            return False

    def unlock(self, name: str) -> None:
        """Say that we are done with it."""
        _unlink(f"{self._directory}/lock/{name}")

    # upkeep

    def sweep(self) -> None:
        """Throw away what has ended, and the least recently read when there is too much; not while another does."""
        try:
            fd = os.open(f"{self._directory}/sweep", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._sweep(time.time())
        except OSError:
            return
        finally:
            os.close(fd)

    def _sweep(self, now: float) -> None:
        was_full, self.is_full = self.is_full, False
        for name, age in (("new", KEPT_AFTER_END), ("lock", LOCK_AGE)):
            for each in os.scandir(f"{self._directory}/{name}"):
                if each.stat().st_ctime < now - age:
                    _unlink(each.path)
        entries = []
        for directory in os.scandir(self._directory):
            if len(directory.name) == 2:
                files = _files(directory.path)
                entries += [(found.st_mtime, found.st_atime, found.st_size, path) for path, found in files]
        total = sum(size for _, _, size, _ in entries)
        target = int(self.limit * SWEEP_TO)
        is_too_much = was_full or total > self.limit * SWEEP_FROM
        for ends, _, size, path in sorted(entries, key=lambda entry: (entry[0] >= now, entry[1])):
            is_over = ends < now - KEPT_AFTER_END
            if (is_over or (is_too_much and total > target)) and _unlink(path):
                total -= size
        self._set(total)

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name[:2]}/{name}"

    def _size(self, path: str) -> int:
        try:
            return os.stat(path).st_size
        except OSError:
            return 0

    def _add(self, size: int) -> None:
        self._change(lambda usage: max(0, usage + size))

    def _set(self, usage: int) -> None:
        self._change(lambda _: usage)

    def _change(self, change: Callable[[int], int]) -> None:
        with self._thread_lock:
            is_locked = self._locks.acquire(0)
            self._usage[0] = change(self._usage[0])
            if is_locked:
                self._locks.release(0)


def _files(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    for each in os.scandir(directory):
        try:
            yield each.path, each.stat()
        except OSError:
            continue  # it has been thrown away meanwhile


def _read(fd: int, size: int) -> bytes:
    data = os.read(fd, size)
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            break
        data += more
    return data


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
