"""Watches a standalone file, and has it read when it has changed: a thread, since any step of this may block.

inotify tells at once; once a second the path is followed anyway, since network file systems tell nothing and a
directory far above may be renamed. What decides is the same in both cases: whether the path still leads to the same
file (``file_trace``). A file that changes is given a moment to settle, then it is read by a process of its own
(``file_reader``). The pages are handed on as they come; a last message says whether they may be used.

Of the libraries for inotify, inotify_simple (BSD, one pure module of 200 lines) is the one whose descriptor can be
waited for together with ours. watchfiles (MIT) and watchdog (Apache) bring threads of their own, and the first a
runtime in Rust and anyio; they hide which directory entry has changed behind what they make of it. asyncinotify is
under the MPL.
"""

import contextlib
import logging
import os
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from inotify_simple import INotify, flags

from config_sync.file_reader import Done, Fault, Page, read_frames
from config_sync.file_trace import Trace, trace
from config_sync.records import Entry

log = logging.getLogger("propylon.sync")

POLL_SECONDS = 1.0  # between two looks when inotify says nothing
_SETTLE_SECONDS = 0.02  # two looks so far apart must see the same before a file is read
_MAX_PAGES = 8  # handed on and not yet used
_ROOT = Path(__file__).parents[1]
_MASK = (
    flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.CLOSE_WRITE
    | flags.ATTRIB
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)


class ReadingBegan(NamedTuple):
    """Pages follow; those before are of no use."""


class PageRead(NamedTuple):
    """A part of the file; say ``page_used`` afterwards."""

    entries: list[Entry]


class FileRead(NamedTuple):
    """The pages since ReadingBegan are the whole file."""

    revision: int
    warnings: list[str]


class FileRefused(NamedTuple):
    """The file is missing or cannot be used."""

    reason: str


Message = ReadingBegan | PageRead | FileRead | FileRefused


class FileWatch:
    """The thread, and how to stop it."""

    def __init__(self, path: str, deliver: Callable[[Message], None]) -> None:
        """Prepare; ``deliver`` is called in the thread and must not block."""
        self._path = os.path.abspath(path)
        self._deliver = deliver
        self._thread = threading.Thread(target=self._run, name="file-watch", daemon=True)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._is_open = threading.Lock()  # held while ``_wake`` is written or closed, never for long
        self._room = threading.Semaphore(_MAX_PAGES)
        self._reader: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._again = False
        self._inotify: INotify | None = None
        self._watched: dict[int, str] = {}  # directories by watch descriptor

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end soon, and deliver nothing more; does not wait."""
        self._stopped = True
        reader = self._reader
        if reader is not None:
            reader.kill()
        self._room.release()
        self._rouse()

    def read_again(self) -> None:
        """Have the file read although it has not changed."""
        self._again = True
        self._rouse()

    def page_used(self) -> None:
        """Make room for another page."""
        self._room.release()

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread, seconds."""
        self._thread.join(timeout)

    def _run(self) -> None:
        self._open_inotify()
        seen: Trace | None = None
        while not self._stopped:
            try:
                seen = self._follow(seen)
            except Exception:  # to stop watching would be worse
                log.exception("%s could not be watched", self._path)
                self._send(FileRefused("could not be watched after a fault in the gateway; tried again"))
            self._wait(POLL_SECONDS)
        if self._inotify is not None:
            self._inotify.close()
        with self._is_open:
            os.close(self._wake)
            self._wake = -1

    def _follow(self, seen: Trace | None) -> Trace | None:
        """See what the path leads to, and have it read if that is new; returns what needs no reading any more."""
        if self._again:
            self._again, seen = False, None
        found = self._look()
        if not self._is_settled(found) or found == seen:
            return seen
        return found if self._take(found) else None

    def _rouse(self) -> None:
        with self._is_open:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _send(self, message: Message) -> None:
        if not self._stopped:
            self._deliver(message)

    # watching

    def _open_inotify(self) -> None:
        try:
            self._inotify = INotify()
        except OSError as error:
            log.warning("%s: no inotify (%s); looked at every %g s", self._path, error.strerror, POLL_SECONDS)

    def _look(self) -> Trace:
        """Follow the path and watch every directory on its way; a directory is watched before it is looked into."""
        while True:
            found = trace(self._path)
            if not self._watch(found.directories):
                return found

    def _watch(self, directories: tuple[str, ...]) -> bool:
        """Watch these directories and no others; tells whether there was one that had not been watched."""
        if self._inotify is None:
            return False
        watched: dict[int, str] = {}
        for directory in directories:
            with contextlib.suppress(OSError):  # gone again, or no watches left: then the second counts
                watched[self._inotify.add_watch(directory, _MASK)] = directory
        for descriptor in self._watched.keys() - watched.keys():
            with contextlib.suppress(OSError):
                self._inotify.rm_watch(descriptor)
        is_new = bool(watched.keys() - self._watched.keys())
        self._watched = watched
        return is_new

    def _is_settled(self, found: Trace) -> bool:
        """Tell whether nothing changes for a moment; if something does, look again soon.

        A busy directory, in which other files come and go, is so looked at no more than fifty times a second.
        """
        self._wait(_SETTLE_SECONDS, for_stop_only=True)
        if self._look() == found:
            return not self._stopped
        self._rouse()
        return False

    def _wait(self, seconds: float, for_stop_only: bool = False) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._inotify is not None and not for_stop_only:
            poll.register(self._inotify, select.POLLIN)
        for fd, _ in poll.poll(seconds * 1000):
            if fd == self._wake:
                os.eventfd_read(self._wake)
        if self._inotify is not None and not for_stop_only:
            self._inotify.read(timeout=0)  # what they say is seen by looking

    # reading

    def _take(self, found: Trace) -> bool:
        """Have the file read; tells whether there is nothing more to do until it changes."""
        if found.file is None:
            self._send(FileRefused(found.fault))
            return True
        try:
            last = self._read()
        except (OSError, EOFError) as error:
            self._send(FileRefused(f"cannot be read: {str(error) or 'its reader has ended'}; tried again"))
            return False
        if last.file is not None and last.file != found.file:
            return False  # it has changed meanwhile
        if isinstance(last, Done):
            self._send(FileRead(found.revision, last.warnings))
        else:
            self._send(FileRefused(last.reason))
        return True

    def _read(self) -> Done | Fault:
        output, writing_end = os.pipe()
        with os.fdopen(output, "rb") as stream:
            try:
                self._reader = self._start_reader(writing_end)
            finally:
                os.close(writing_end)
            self._send(ReadingBegan())
            try:
                return self._hand_on(stream)
            finally:
                self._reader.kill()
                self._reader.wait()
                self._reader = None

    def _hand_on(self, stream: BinaryIO) -> Done | Fault:
        for frame in read_frames(stream):
            if not isinstance(frame, Page):
                return frame
            self._room.acquire()
            if self._stopped:
                break
            self._send(PageRead(frame.entries))
        raise EOFError

    def _start_reader(self, output: int) -> "subprocess.Popen[bytes]":
        search = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
        return subprocess.Popen(  # noqa: S603 - ourselves
            [sys.executable, "-m", "config_sync.file_reader", self._path],
            stdin=subprocess.DEVNULL,
            stdout=output,
            process_group=0,  # Ctrl-C is for the master
            env={**os.environ, "PYTHONPATH": search},
        )
