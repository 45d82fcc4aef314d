"""The end of a connection whose other side may still be sending.

To close a socket while bytes wait in it, or come later, makes the kernel send a reset, which destroys what was
written before and is still on its way. So a connection is half closed first, and read, for nothing, until the other
side has closed too (RFC 9112 section 9.6).
"""

import asyncio
from typing import TYPE_CHECKING

from worker.http.kernel import in_send_queue

if TYPE_CHECKING:
    from worker.context import WorkerContext

LINGERING_TIMEOUT = 5.0  # nginx's lingering_timeout: nothing comes for so long
LINGERING_TIME = 30.0  # nginx's lingering_time: for so long in all


class Lingering(asyncio.Protocol):
    """A connection from its last bytes to its end, as the protocol of its transport."""

    __slots__ = ("_active", "_context", "_owner", "_taken", "_transport", "_unsent")

    def __init__(
        self,
        context: "WorkerContext",
        transport: asyncio.Transport,
        owner: asyncio.Protocol,
        *,
        has_ended: bool = False,
    ) -> None:
        """Take over a connection, whose reading is not paused; ``owner`` is told when it is lost.

        Of one whose other side ``has_ended`` nothing can come: it is closed when all has been sent.
        """
        self._context = context
        self._transport = transport
        self._owner = owner
        self._unsent = -1  # at the last look
        self._taken = context.now  # coarse: when some of it was last taken
        self._active = context.now  # coarse: when bytes last came
        context.lingering.add(self)
        transport.set_protocol(self)
        if has_ended or not transport.can_write_eof():
            transport.close()  # TLS takes leave in its own way, and reads until that is answered
        else:
            transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Note that the other side has not closed yet."""
        self._active = self._context.now

    def eof_received(self) -> bool:
        """Close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        self._context.lingering.discard(self)
        self._owner.connection_lost(None)

    def check_deadlines(self, now: float) -> None:
        """Give up who takes nothing for ``send_timeout``, or does not close in time; called by the janitor."""
        unsent = self._transport.get_write_buffer_size() + in_send_queue(self._transport)
        if unsent != self._unsent:
            self._unsent = unsent
            self._taken = now
        if unsent:
            self._active = now  # the time for the other side to close begins when it has all
            if now - self._taken > self._context.settings.send_timeout:
                self._transport.abort()
        elif now - self._active > LINGERING_TIMEOUT or now - self._taken > LINGERING_TIME:
            self._transport.abort()

    def __repr__(self) -> str:
        """Show whose end it is."""
        return f"<Lingering of {self._owner!r}>"
