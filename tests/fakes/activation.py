"""Starting a process with listening sockets, as systemd does it."""

import contextlib
import socket
import sys
from collections.abc import Iterator, Mapping

from tests.fakes.processes import ROOT, Gateway

_BECOME = """
import fcntl, os, sys
given = [int(fd) for fd in sys.argv[1].split(",")]
fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in given]
for fd in given:
    os.close(fd)
for at, fd in enumerate(fds):
    os.dup2(fd, 3 + at)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


def launch_with(gateway: Gateway, sockets: Mapping[str, int]) -> None:
    """Launch a gateway with descriptors, by name; names may have a number behind a blank to differ."""
    fds = list(sockets.values())
    names = ":".join(name.partition(" ")[0] for name in sockets)
    gateway.launch_from(ROOT, [sys.executable, "-c", _BECOME, ",".join(map(str, fds)), names], pass_fds=fds)


@contextlib.contextmanager
def listening(port: int, reuse: bool) -> Iterator[socket.socket]:
    """Open a socket as a .socket unit does (ReusePort=)."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(reuse))
        sock.bind(("127.0.0.1", port))
        sock.listen(1)
        yield sock
