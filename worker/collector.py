"""Pauses of the garbage collector while very much is being made: it would walk all of that, again and again."""

import gc


class Pause:
    """One of several that may overlap; the collector goes on after the last, and takes what is there for permanent."""

    _under_way = 0

    __slots__ = ("_is_begun",)

    def __init__(self) -> None:
        self._is_begun = False

    def begin(self) -> None:
        """Pause it; again without effect."""
        if not self._is_begun:
            self._is_begun = True
            Pause._under_way += 1
            gc.disable()

    def end(self) -> None:
        """Let it go on, unless it was not paused."""
        if self._is_begun:
            self._is_begun = False
            Pause._under_way -= 1
            if not Pause._under_way:
                gc.freeze()
                gc.enable()
