"""Replacing the running code of the master (USR2): the old one starts the new one with its listening sockets.

Both run until the operator ends one of them. Over a socketpair they tell each other what the other must know; what
follows from it for the old one stands in ``TABLE``.

    NONE ──► STARTING ──► SIDE_BY_SIDE      the old one ends (QUIT), or
               │  ╲             │           the new one ends, and all is as it was
               │   ╲► FAILING   ▼
               └───────► NONE ◄─┴ LEAVING
"""

import logging
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Literal

import msgspec

from worker.observability.systemd import NOTIFY_SOCKET, WATCHDOG_USEC
from worker.supervisor.inherited import VARIABLE, Announced, Handover

log = logging.getLogger("propylon.master")

MAX_PACKET_BYTES = 65_536
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED


class Stage(Enum):
    """How far an upgrade is, for the old master."""

    NONE = "no upgrade"
    STARTING = "the new master starts"
    FAILING = "the new master is told to end before it was ready"
    SIDE_BY_SIDE = "both run"
    LEAVING = "the new master ends, and leaves all to the old one"


class Event(Enum):
    """What the old master sees of the new one."""

    BEGUN = "it was started"
    READY = "its workers are ready"
    LATE = "it takes too long"
    HANDS_BACK = "it was told to stop"
    ENDED = "it has ended"


class Action(Enum):
    """What the old master does then."""

    NOTHING = "nothing"
    ANNOUNCE = "tell systemd and the command line that the new master is the one"
    END = "end the new master"
    GIVE_UP = "take the pid file back, and tell why"
    TAKE_BACK = "be the one again"


TABLE: dict[tuple[Stage, Event], tuple[Stage, Action]] = {
    (Stage.NONE, Event.BEGUN): (Stage.STARTING, Action.NOTHING),
    (Stage.STARTING, Event.READY): (Stage.SIDE_BY_SIDE, Action.ANNOUNCE),
    (Stage.STARTING, Event.LATE): (Stage.FAILING, Action.END),
    (Stage.STARTING, Event.ENDED): (Stage.NONE, Action.GIVE_UP),
    (Stage.FAILING, Event.ENDED): (Stage.NONE, Action.GIVE_UP),
    (Stage.SIDE_BY_SIDE, Event.HANDS_BACK): (Stage.LEAVING, Action.TAKE_BACK),
    (Stage.SIDE_BY_SIDE, Event.ENDED): (Stage.NONE, Action.TAKE_BACK),
    (Stage.LEAVING, Event.ENDED): (Stage.NONE, Action.NOTHING),
}


def follow(stage: Stage, event: Event) -> tuple[Stage, Action]:
    """Return the stage after an event, and what is to be done."""
    return TABLE.get((stage, event), (stage, Action.NOTHING))


class Word(msgspec.Struct, frozen=True):
    """What one master tells the other: the new one ``ready``, ``failed``, ``hands back``; the old one ``be main``."""

    word: Literal["ready", "failed", "hands back", "be main"]
    reason: str = ""


def say(channel: socket.socket, word: Word) -> None:
    """Tell the other master, if it still listens."""
    try:
        channel.send(msgspec.json.encode(word), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError as error:
        log.debug("the other master cannot be told %r: %s", word.word, error.strerror)


def hear(channel: socket.socket) -> list[Word | None]:
    """Return what the other master has said; None last when it is gone."""
    words: list[Word | None] = []
    while True:
        try:
            packet = channel.recv(MAX_PACKET_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return words
        except OSError:
            packet = b""
        if not packet:
            return [*words, None]
        try:
            words.append(msgspec.json.decode(packet, type=Word))
        except msgspec.DecodeError as error:
            log.warning("the other master says what is not understood: %s", error)


def working_directory() -> Path:
    """Return the directory we were started in, by the name it was given: a link may lead elsewhere when we upgrade."""
    named = os.environ.get("PWD", "")
    try:
        return Path(named) if named and Path(named).samefile(".") else Path.cwd()
    except OSError:
        return Path.cwd()


def has_terminal() -> bool:
    """Tell whether we run at a terminal, which sends SIGWINCH whenever its size changes."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class Successor:
    """The new master, as the old one sees it."""

    def __init__(self) -> None:
        self.stage = Stage.NONE
        self.reason = ""  # why it failed
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._until = 0.0

    @property
    def pid(self) -> int:
        """Its pid; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    def fileno(self) -> int:
        """Return the descriptor on which it is heard; -1 when there is none."""
        return self._channel.fileno() if self._channel is not None else -1

    def start(
        self,
        directory: Path,
        variables: Mapping[str, str],
        listeners: Sequence[Announced],
        store: int,
        revision: int,
        patience: float,
    ) -> None:
        """Start it: our own command line, with the listening sockets; ready within ``patience`` seconds, or never.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            handover = Handover(theirs.fileno(), tuple(listeners), revision, store)
            told = {name: variables[name] for name in (NOTIFY_SOCKET, WATCHDOG_USEC) if name in variables}
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own command line
                    [sys.executable, *sys.orig_argv[1:]],
                    cwd=directory,
                    env={**os.environ, **told, VARIABLE: msgspec.json.encode(handover).decode()},
                    pass_fds=[theirs.fileno(), *(each.fd for each in listeners)],
                )
            except OSError:
                ours.close()
                raise
        self._channel, self.reason = ours, ""
        self._until = time.monotonic() + patience
        self._happened(Event.BEGUN)

    def heard(self) -> list[Action]:
        """Listen to it; returns what is to be done."""
        if self._channel is None:
            return []
        actions = []
        for word in hear(self._channel):
            if word is None:
                self._hang_up()  # its end is noticed by SIGCHLD
            elif word.word == "failed":
                self.reason = word.reason
            elif word.word in ("ready", "hands back"):
                actions.append(self._happened(Event.READY if word.word == "ready" else Event.HANDS_BACK))
        return actions

    def look(self, now: float) -> Action:
        """See whether it is late."""
        if self.stage is not Stage.STARTING or now < self._until:
            return Action.NOTHING
        self.reason = "it was not ready within worker_startup_timeout"
        return self._happened(Event.LATE)

    def ended(self, code: int) -> list[Action]:
        """Note that it was reaped; returns what is to be done, of its last words first."""
        actions = self.heard()
        if self._process is not None:
            self._process.returncode = code
        self._process = None
        self._hang_up()
        how = f"it was ended by signal {-code}" if code < 0 else f"it ended with exit status {code}"
        self.reason = f"{how}: {self.reason}" if self.reason else f"{how}; its standard error may tell more"
        return [*actions, self._happened(Event.ENDED)]

    def be_main(self) -> None:
        """Tell it that it is the one that systemd knows."""
        if self._channel is not None:
            say(self._channel, Word("be main"))

    def sockets(self) -> list[socket.socket]:
        """Return what a worker must close."""
        return [self._channel] if self._channel is not None else []

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = None

    def _happened(self, event: Event) -> Action:
        self.stage, action = follow(self.stage, event)
        log.debug("upgrade: %s: %s, %s", event.value, self.stage.value, action.value)
        return action


def _peer(channel: socket.socket) -> int:
    credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[0])


class Predecessor:
    """The old master, as the new one sees it; without one we are on our own from the beginning."""

    def __init__(self, handover: Handover | None) -> None:
        self._channel = socket.socket(fileno=handover.channel) if handover is not None else None
        if self._channel is not None:
            self._channel.set_inheritable(False)
        self.pid = _peer(self._channel) if self._channel is not None else 0
        self.is_told = handover is None  # whether systemd knows us

    @property
    def is_there(self) -> bool:
        """Tell whether it still runs."""
        return self._channel is not None

    def fileno(self) -> int:
        """Return the descriptor on which it is heard; -1 when it is not there."""
        return self._channel.fileno() if self._channel is not None else -1

    def heard(self) -> bool:
        """Listen to it; returns whether it has ended just now."""
        if self._channel is None:
            return False
        for word in hear(self._channel):
            self.is_told = True
            if word is None:
                self._channel.close()
                self._channel = None
                return True
        return False

    def say(self, word: Word) -> None:
        """Tell it, when it is there."""
        if self._channel is not None:
            say(self._channel, word)

    def sockets(self) -> list[socket.socket]:
        """Return what a worker must close."""
        return [self._channel] if self._channel is not None else []
