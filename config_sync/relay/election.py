"""Who leads: whoever holds the lock of a file in the runtime directory.

The kernel gives the lock up when its holder ends, however it ends: another worker can lead from that moment on.
"""

import fcntl
import os
import socket
import struct
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

from config_sync.relay.messages import VERSION
from config_sync.schema import DIRECTORIES
from config_sync.settings import EtcdSettings

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
BACKLOG = 1_024


def relay_name(settings: EtcdSettings) -> str:
    """Name what is watched, and what is made of it: only those for whom both are the same can follow each other."""
    watched = sorted(settings.host), settings.prefix.rstrip("/"), settings.user, settings.epoch_key
    what = VERSION, sorted(DIRECTORIES), *watched
    return blake2b(msgspec.json.encode(what), digest_size=8).hexdigest()


class Lock:
    """The lock of a file; given up by ``release`` or by the end of the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    @property
    def is_held(self) -> bool:
        """Tell whether we hold it."""
        return self._fd >= 0

    def take(self) -> bool:
        """Take the lock if nobody holds it; never waits.

        Raises:
            OSError: the file cannot be opened.
        """
        if self.is_held:
            return True
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_in_place(fd):
                self._fd = fd
                return True
        except BlockingIOError:
            pass
        except OSError:
            os.close(fd)
            raise
        os.close(fd)
        return False

    def release(self) -> None:
        """Give it up; nothing happens when it is not held."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _is_in_place(self, fd: int) -> bool:
        """Tell whether others who open the file find this one, and not another that has taken its name."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(fd), os.stat(self._path))
        return False


def listen(path: Path) -> socket.socket:
    """Open the socket of a leader, who holds the lock, in the place of one that a former leader has left.

    Raises:
        OSError: it cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(sock.fileno(), 0o600)
        with _Directory(path) as address:
            with suppress(FileNotFoundError):
                path.unlink()
            sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def connect(path: Path) -> socket.socket:
    """Connect to the leader; a unix socket does that at once or not at all.

    Raises:
        OSError: nobody listens, or it is not ours.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _Directory(path) as address:
            sock.connect(address)
        if peer_uid(sock) != os.geteuid():
            raise PermissionError(f"{path} belongs to another user")
    except OSError:
        sock.close()
        raise
    return sock


def peer_uid(sock: socket.socket) -> int:
    """Return the user of the process at the other end."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


class _Directory:
    """A short way to a path: the address of a unix socket has room for 107 bytes only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        self._fd = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
