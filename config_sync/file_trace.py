"""What a path leads to, and whether that is still the same.

A file is replaced in many ways: written in place, renamed over, by a directory that is renamed, by a link that is
swapped, as Kubernetes does with ``..data`` for a ConfigMap. So every link on the way counts, not only the file at
its end, and what has to be watched are the directories that hold them: a watched file would be the old one.
"""

import os
import stat
from typing import NamedTuple

_MAX_LINKS = 40  # as the kernel's


class Stamp(NamedTuple):
    """What changes when a file is written or replaced; times in ns."""

    device: int
    inode: int
    size: int
    mtime: int
    ctime: int

    @classmethod
    def of(cls, status: os.stat_result) -> "Stamp":
        """Take it from a status."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Trace(NamedTuple):
    """Where a path leads to."""

    links: tuple[Stamp, ...]  # in the order in which they are followed
    file: Stamp | None  # None: it leads nowhere
    fault: str  # why it leads nowhere
    directories: tuple[str, ...]  # that hold the links and the file, or would hold what is missing

    @property
    def revision(self) -> int:
        """When the path began to lead to this file as it is: µs since the epoch, and so below 2**53.

        It is the latest change of inode of the file and the links. That grows with every way to replace a file, also
        where ``mtime`` does not (``cp -p``, a link to an older file), and is the same for whoever looks.
        """
        return max((stamp.ctime for stamp in (*self.links, *([self.file] if self.file else []))), default=0) // 1000


def trace(path: str) -> Trace:
    """Follow an absolute path; blocks as long as the file system does."""
    links: list[Stamp] = []
    directories: list[str] = []
    here = "/"
    ahead = path.split("/")[::-1]
    try:
        while ahead:
            name = ahead.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = os.path.dirname(here)
                continue
            status = os.lstat(os.path.join(here, name))
            if not stat.S_ISLNK(status.st_mode):
                here = os.path.join(here, name)
                continue
            directories.append(here)
            links.append(Stamp.of(status))
            if len(links) > _MAX_LINKS:
                return Trace(tuple(links), None, "too many links", tuple(dict.fromkeys(directories)))
            target = os.readlink(os.path.join(here, name))
            ahead.extend(target.split("/")[::-1])
            here = "/" if target.startswith("/") else here
        status = os.lstat(here)
    except OSError as error:
        return Trace(tuple(links), None, f"{error.filename}: {error.strerror}", (*dict.fromkeys((*directories, here)),))
    directories.append(os.path.dirname(here))
    if not stat.S_ISREG(status.st_mode):
        return Trace(tuple(links), None, f"{here}: is no regular file", tuple(dict.fromkeys(directories)))
    return Trace(tuple(links), Stamp.of(status), "", tuple(dict.fromkeys(directories)))
