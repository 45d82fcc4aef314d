"""Precheck: a process that tries to be a worker, as far as that can be done without accepting anybody, and ends.

What is wrong with new settings or new code is found before any worker is forked: in a process of its own, since code
once imported stays, and rights once given up are gone.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection

from config_sync.settings import Settings
from worker.supervisor.spawn import Sockets, fork_child

MAX_REASON_BYTES = 4_000  # less than a pipe holds, so it is written without waiting
_GOOD = b"good"

CheckMain = Callable[[Settings], None]


def check(settings: Settings) -> None:
    """Do what a worker does at its start; raises whatever would end it."""
    from worker.check import check_worker

    check_worker(settings)


class Precheck:
    """One such process; its verdict is known when it has ended."""

    def __init__(self, settings: Settings, foreign: Sockets, check_main: CheckMain = check) -> None:
        """Fork it.

        Raises:
            OSError: there are too many processes or descriptors, or too little memory.
        """
        self._pipe, write = os.pipe()
        os.set_blocking(self._pipe, False)

        def live() -> int:
            os.write(write, _verdict(settings, check_main))
            return 0

        try:
            self.pid = fork_child("the check of the new settings", live, foreign)
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(write)

    def verdict(self, cause: str) -> str:
        """Return what is wrong, empty for nothing, once the process has ended; ``cause`` tells how."""
        text = b""
        with contextlib.suppress(BlockingIOError):
            text = os.read(self._pipe, MAX_REASON_BYTES)
        os.close(self._pipe)
        if text == _GOOD:
            return ""
        return text.decode(errors="replace") or f"the process that checks the new settings has died: {cause}"

    def drop(self) -> None:
        """End it; its verdict is of no interest any more."""
        os.close(self._pipe)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def _verdict(settings: Settings, check_main: CheckMain) -> bytes:
    # Those every worker has as they were when the master was started.
    masters = {name for name in sys.modules if name.startswith(("config_sync.", "worker."))}
    try:
        check_main(settings)
    except BaseException as error:
        return describe(error, masters).encode(errors="replace")[:MAX_REASON_BYTES]
    return _GOOD


def describe(error: BaseException, masters: Collection[str] = ()) -> str:
    """Say in one line what has failed, and where: the file an error is about, or the place in the code it came from.

    ``masters`` are the modules that were there before.
    """
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    if isinstance(error, OSError) or type(error).__module__ != "builtins":
        return str(error) or type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<")]
    place = f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
    hint = ""
    if isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError) and error.name in masters:
        hint = "; the master has an older version of that module, which USR2 replaces and HUP does not"
    return f"{type(error).__name__}: {error}{place}{hint}"
