"""The stacks of a worker that hangs, in the error log.

A signal makes the interpreter write them from its C code, so it needs neither the event loop nor the log's thread.
"""

import faulthandler
import signal

DUMP_SIGNAL = signal.SIGUSR2  # of workers; to a master it means something else


def register_stack_dumps(fd: int) -> None:
    """Write the stacks of all threads to a descriptor when ``DUMP_SIGNAL`` comes."""
    faulthandler.register(DUMP_SIGNAL, fd, all_threads=True)


def ignore_stack_dumps() -> None:
    """Write no more, and ignore the signal."""
    faulthandler.unregister(DUMP_SIGNAL)
    signal.signal(DUMP_SIGNAL, signal.SIG_IGN)
