"""The way to systemd: its notify socket (sd_notify(3)), and what it has put into the environment.

systemd is never waited for. What a full or vanished socket does not take is kept and sent with what comes later; of
that, the oldest is dropped when it becomes too much.
"""

import array
import logging
import socket
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

log = logging.getLogger("propylon.master")

NOTIFY_SOCKET = "NOTIFY_SOCKET"
WATCHDOG_USEC = "WATCHDOG_USEC"
WATCHDOG_PID = "WATCHDOG_PID"
LISTEN_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
VARIABLES = (NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID, *LISTEN_VARIABLES)
MAX_WAITING = 256  # messages, the descriptors of 256 sockets among them


def take_variables(environment: MutableMapping[str, str], also: Sequence[str] = ()) -> dict[str, str]:
    """Remove from an environment what systemd told this process alone, and return it."""
    return {name: environment.pop(name) for name in (*VARIABLES, *also) if name in environment}


def watchdog_period(variables: Mapping[str, str], pid: int) -> float | None:
    """Return within how many seconds systemd wants to hear of us again and again; None when it does not."""
    if variables.get(WATCHDOG_PID, str(pid)) != str(pid):
        return None
    text = variables.get(WATCHDOG_USEC, "")
    return int(text) / 1e6 if text.isdigit() and int(text) > 0 else None


@dataclass(frozen=True)
class Message:
    """A datagram for systemd, with the sockets it is to keep."""

    text: str
    sockets: tuple[socket.socket, ...] = ()


class NotifySocket:
    """Sends messages in their order, without ever waiting; without an address it forgets them."""

    def __init__(self, address: str) -> None:
        """Take the value of ``NOTIFY_SOCKET``; empty when systemd has not asked to be told."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._waiting: deque[Message] = deque(maxlen=MAX_WAITING)
        self._complained = False

    @property
    def is_wanted(self) -> bool:
        """Tell whether somebody listens."""
        return bool(self._address)

    def send(self, messages: Sequence[Message] = ()) -> None:
        """Send messages, after those that have not been taken yet."""
        if not self._address:
            return
        self._waiting.extend(messages)
        if not self._waiting:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
                while self._waiting:
                    self._send_one(sock, self._waiting[0])
                    self._waiting.popleft()
        except OSError as error:
            if not self._complained:
                self._complained = True
                log.warning("systemd cannot be told how we are: %s: %s", self._address, error.strerror)
        else:
            self._complained = False

    def _send_one(self, sock: socket.socket, message: Message) -> None:
        fds = array.array("i", [each.fileno() for each in message.sockets if each.fileno() >= 0])
        if message.sockets and not fds:
            return  # closed while it waited
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        sock.sendmsg([message.text.encode()], ancillary, 0, self._address)


def from_environment(variables: Mapping[str, str]) -> NotifySocket:
    """Return the way to whoever the variables of ``take_variables`` name."""
    return NotifySocket(variables.get(NOTIFY_SOCKET, ""))
