"""Semaphores: numbers in shared memory that several processes change at the same moment, and never wait for.

They are POSIX semaphores (sem_overview(7)) that nobody ever blocks on. ``sem_trywait`` takes one in a single atomic
instruction, or says that none is left; who dies or is stopped holds nothing up. The C library is called with the GIL
held: the calls are shorter than giving it up.
"""

import ctypes
import mmap
from collections.abc import Callable

SEMAPHORE_WORDS = 4
MOST = (1 << 31) - 1  # SEM_VALUE_MAX

_library = ctypes.PyDLL(None)


def _function(name: str, *arguments: type) -> Callable[..., int]:
    function = getattr(_library, name)
    function.argtypes = arguments
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


_init = _function("sem_init", ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)
_take = _function("sem_trywait", ctypes.c_void_p)
_give = _function("sem_post", ctypes.c_void_p)
_value = _function("sem_getvalue", ctypes.c_void_p, ctypes.c_void_p)


class Semaphores:
    """The semaphores in a mapping; each is named by its first word."""

    __slots__ = ("_base", "_cell", "_cell_at")

    def __init__(self, memory: mmap.mmap) -> None:
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._cell = ctypes.c_int()
        self._cell_at = ctypes.addressof(self._cell)

    def begin(self, word: int, value: int) -> None:
        """Let a semaphore have a value."""
        _init(self._base + word * 8, 1, value)

    def take(self, word: int) -> bool:
        """Take one, if one is left."""
        return _take(self._base + word * 8) == 0

    def taken(self, word: int) -> int:
        """Take one, and return how many are left then; -1 if none was left."""
        at = self._base + word * 8
        if _take(at):
            return -1
        _value(at, self._cell_at)
        return self._cell.value

    def give(self, word: int) -> None:
        """Give one back."""
        _give(self._base + word * 8)

    def left(self, word: int) -> int:
        """Return how many are left."""
        _value(self._base + word * 8, self._cell_at)
        return self._cell.value
