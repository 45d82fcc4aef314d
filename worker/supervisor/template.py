"""Template: a process that has imported what serves, and forks workers from itself when the master asks for one.

A worker that the master forks by itself has to import all code, which takes 0.15 s of processor time. One from the
template has it: it is ready in a fraction of that, shares the memory of the code with the others, and runs the code its
generation was begun with, whatever lies on the disk by now. The master is the parent of such workers too: the template
forks twice, and their parents' end leaves them to the master, which is a subreaper (``PR_SET_CHILD_SUBREAPER``).

The template accepts nobody and has no rights but those of the master, with which workers import their code as well.
When there is none, or it does not answer, the master forks by itself.
"""

import contextlib
import ctypes
import gc
import logging
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from config_sync.settings import Address, Settings
from worker.scoreboard import Entry, Scoreboard
from worker.supervisor.child import Child
from worker.supervisor.listeners import Listeners
from worker.supervisor.spawn import Sockets, WorkerMain, end_as, fork_child

log = logging.getLogger("propylon.master")

NAME = "template"  # what the kernel calls the process, as ``ps -o comm`` shows
PATIENCE = 0.5  # seconds that the master waits for a fork
REST = 5.0  # seconds until another template is forked in the place of one that has ended
PROBATION = 1.0  # seconds that a generation is in force before it gets one: one reload may follow the other
MAX_SOCKETS = 250  # the kernel passes 253 descriptors at once
MAX_PACKET_BYTES = 65_536
PR_SET_CHILD_SUBREAPER = 36
_COMM = Path("/proc/self/comm")
_NAMED, _READY, _GO = b"named", b"ready", b"go"


class Birth(msgspec.Struct, frozen=True):
    """To the template: fork a worker; its end of the socketpair and its listening sockets come with it."""

    entry: int  # of the scoreboard
    minimum_revision: int
    addresses: tuple[Address, ...]


class Born(msgspec.Struct, frozen=True):
    """From the template: the worker's pid; 0 when there are too many processes, or too little memory."""

    pid: int


class Template:
    """One such process, as the master sees it."""

    def __init__(
        self,
        generation: int,
        settings: Settings,
        board: Scoreboard,
        foreign: Sockets,
        worker_main: WorkerMain,
        prepare: Callable[[], None],
    ) -> None:
        """Fork it; ``foreign`` are the sockets that it closes, ``prepare`` imports what ``worker_main`` needs.

        Raises:
            OSError: there are too many processes or descriptors, or too little memory.
        """
        self.generation = generation
        self.settings = settings
        self._is_ready = False
        self._born = time.monotonic()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def live() -> int:
            former_name = _COMM.read_text().rstrip("\n")
            _COMM.write_text(NAME)
            theirs.send(_NAMED)
            ours.close()
            prepare()
            theirs.send(_READY)
            log.info("a template for workers of generation %d is ready", generation)
            return _serve(theirs, settings, board, worker_main, former_name)

        try:
            self.pid = fork_child("the template", live, foreign)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.control = ours
        try:
            self._hears()  # by then whoever looks for processes can tell it from a worker
        except OSError:
            self.drop()
            raise

    def is_ready(self) -> bool:
        """Tell whether it has imported everything."""
        if not self._is_ready:
            try:
                self._is_ready = self.control.recv(len(_READY), socket.MSG_DONTWAIT) == _READY
            except OSError:
                return False
        return self._is_ready

    def is_overdue(self, now: float) -> bool:
        """Tell whether it has not imported everything in the time that a worker has for it."""
        return now - self._born > self.settings.worker_startup_timeout and not self.is_ready()

    def fork(self, entry: Entry, listeners: Listeners, minimum_revision: int) -> Child:
        """Have it fork a worker.

        Raises:
            OSError: it does not answer in time, or cannot fork.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            birth = Birth(entry.number, minimum_revision, tuple(address for address, _ in listeners))
            sockets = [theirs, *(sock for _, sock in listeners)]
            socket.send_fds(self.control, [msgspec.json.encode(birth)], [sock.fileno() for sock in sockets])
            pid = self._answer().pid
            if not pid:
                raise OSError("the template cannot fork")
            ours.send(_GO)
        except OSError:
            ours.close()  # upon which a worker that comes late ends
            raise
        finally:
            theirs.close()
        entry.pid = pid
        return Child(pid, self.generation, ours, entry, time.monotonic())

    def _hears(self) -> bytes:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        if not poll.poll(PATIENCE * 1000):
            raise TimeoutError(f"the template does not answer within {PATIENCE} s")
        return self.control.recv(MAX_PACKET_BYTES)

    def _answer(self) -> Born:
        try:
            return msgspec.json.decode(self._hears(), type=Born)
        except msgspec.DecodeError as error:
            raise OSError("the template has ended") from error

    def drop(self) -> None:
        """End it."""
        self.control.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Templates:
    """The template of the generation in force, if there is one."""

    def __init__(
        self, board: Scoreboard, foreign: Sockets, worker_main: WorkerMain, prepare: Callable[[], None] | None
    ) -> None:
        """Begin without; ``prepare`` imports what ``worker_main`` needs, and None is for never having a template."""
        self._board = board
        self._foreign = foreign
        self._worker_main = worker_main
        self._prepare = prepare if prepare is not None and _adopt_orphans() else None
        self._template: Template | None = None
        self._dropped: set[int] = set()  # pids of those that have not ended yet
        self._generation = 0  # in force
        self._not_before = -math.inf
        self._hopeless = 0  # the generation whose code cannot be imported any more

    def sockets(self) -> list[socket.socket]:
        """Return what no child must keep open."""
        return [self._template.control] if self._template is not None else []

    def keep(self, generation: int, settings: Settings, now: float) -> None:
        """See that there is one, of this generation."""
        template = self._template
        if self._prepare is None or generation == self._hopeless:
            return
        if generation != self._generation:
            self._generation, self._not_before = generation, now + PROBATION
            self.drop()
            return
        if now < self._not_before or (template is not None and not template.is_overdue(now)):
            return
        self.drop()
        self._not_before = now + REST
        try:
            self._template = Template(
                generation, settings, self._board, self._foreign, self._worker_main, self._prepare
            )
        except OSError as error:
            log.warning("a template for workers cannot be forked: %s", error.strerror)

    def fork(self, entry: Entry, settings: Settings, listeners: Listeners, minimum_revision: int) -> Child | None:
        """Fork a worker of these settings; None when there is no template for it."""
        template = self._template
        if template is None or template.settings is not settings or template.generation != entry.generation:
            return None
        if len(listeners) > MAX_SOCKETS or not template.is_ready():
            return None
        try:
            return template.fork(entry, listeners, minimum_revision)
        except OSError as error:
            log.warning("the master forks by itself: %s", error)
            self.drop()
            return None

    def reaped(self, pid: int) -> bool:
        """Take note of the end of a process; False when it was no template."""
        if pid in self._dropped:
            self._dropped.discard(pid)
            return True
        if self._template is None or self._template.pid != pid:
            return False
        log.warning("the template %d has died", pid)
        if not self._template.is_ready():
            self._hopeless = self._template.generation
        self._template.control.close()
        self._template = None
        return True

    def drop(self) -> None:
        """Have none."""
        if self._template is not None:
            self._dropped.add(self._template.pid)
            self._template.drop()
            self._template = None


def _adopt_orphans() -> bool:
    """Be the parent of descendants whose own has ended; False where the kernel refuses."""
    failed: int = ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return not failed


# the template's own life


def _serve(
    control: socket.socket, settings: Settings, board: Scoreboard, worker_main: WorkerMain, worker_name: str
) -> int:
    """Fork what is asked for until the master has no use for it any more."""
    gc.collect()
    gc.freeze()  # what is here now stays, and is shared as long as nobody touches it
    while True:
        packet, descriptors, _, _ = socket.recv_fds(control, MAX_PACKET_BYTES, MAX_SOCKETS + 1)
        if not packet:
            return 0
        birth = msgspec.json.decode(packet, type=Birth)
        mine, *listening = [socket.socket(fileno=descriptor) for descriptor in descriptors]

        def live(birth: Birth = birth, mine: socket.socket = mine, listening: list[socket.socket] = listening) -> int:
            control.close()
            _COMM.write_text(worker_name)
            if mine.recv(len(_GO)) != _GO:
                return 0  # the master has given us up
            entry = Entry(board, birth.entry)
            me = Child(os.getpid(), entry.generation, mine, entry, time.monotonic())
            listeners = list(zip(birth.addresses, listening, strict=True))
            return worker_main(settings, entry.slot, me, listeners, birth.minimum_revision)

        control.send(msgspec.json.encode(Born(_fork_orphan(live))))
        for sock in (mine, *listening):
            sock.close()


def _fork_orphan(live: Callable[[], int]) -> int:
    """Fork a grandchild whose parent has ended when this returns its pid; 0 when that fails."""
    read, write = os.pipe()
    try:
        parent = os.fork()
    except OSError:
        os.close(read)
        os.close(write)
        return 0
    if parent == 0:
        end_as("the parent of a worker", lambda: _orphan(read, write, live))
    os.close(write)
    said = os.read(read, 20)
    os.close(read)
    os.waitpid(parent, 0)
    return int(said or 0)


def _orphan(read: int, write: int, live: Callable[[], int]) -> int:
    os.close(read)
    pid = os.fork()
    if pid == 0:
        os.close(write)
        end_as("a worker", live)
    os.write(write, str(pid).encode())
    return 0
