"""Outbox: what is written in one round of the event loop leaves together, at the end of the round.

A write to a socket wakes whoever waits behind it. Answers that are written one by one, as soon as each is there, find a
client or an upstream asleep again, since it is quicker than we are; written together they find it awake (measured in
docs/decisions/0012-outbox.md).

With ``FEW`` clients there is nothing to be gained, and all is written at once.

A transport that is ``late`` keeps its order: whatever else is asked of it happens behind what waits.
"""

import asyncio
import logging
from collections.abc import Sized
from typing import Any

log = logging.getLogger("propylon.http")

FEW = 8  # client connections
MOST = 32  # transports that wait at the same time: a round that takes long does not hold up those that came first
LARGE = 16_384  # bytes that do not wait


class Outbox:
    """The transports of one worker that have something to send."""

    __slots__ = ("_loop", "_waiting", "clients")

    def __init__(self, loop: asyncio.AbstractEventLoop, clients: Sized) -> None:
        """Wait while there are not just a ``FEW`` of the clients."""
        self._loop = loop
        self.clients = clients
        self._waiting: list[LateTransport] = []

    def add(self, transport: "LateTransport") -> None:
        """Let a transport send at the end of this round, or now if too many wait."""
        waiting = self._waiting
        if not waiting:
            self._loop.call_soon(self.flush)
        waiting.append(transport)
        if len(waiting) >= MOST:
            self.flush()

    def flush(self) -> None:
        """Let all of them send."""
        waiting, self._waiting = self._waiting, []
        for transport in waiting:
            try:
                transport.flush()
            except Exception:
                log.exception("nothing can be sent")
                transport.abort()


class LateTransport(asyncio.Transport):
    """A transport whose small writes wait for the end of the round."""

    __slots__ = ("_outbox", "_pending", "_transport")

    def __init__(self, transport: asyncio.Transport, outbox: Outbox) -> None:
        self._transport = transport
        self._outbox = outbox
        self._pending = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send later what is small, and at once, behind what waits, what is not."""
        pending = self._pending
        if type(data) is not bytes or len(data) + len(pending) > LARGE:
            self.flush()
            self._transport.write(data)
        elif pending:
            self._pending = pending + data
        elif len(self._outbox.clients) < FEW:
            self._transport.write(data)
        else:
            self._pending = data
            self._outbox.add(self)

    def flush(self) -> None:
        """Send what waits, unless nobody takes it any more."""
        data, self._pending = self._pending, b""
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        """Say that nothing more will come."""
        self.flush()
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        """Tell whether that can be said."""
        return self._transport.can_write_eof()

    def close(self) -> None:
        """Close when all is sent."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close now; what waits has been written before."""
        self.flush()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Tell whether it is being closed, or is."""
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the kernel has not taken."""
        return len(self._pending) + self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say from how many bytes on writing is to pause, and go on."""
        self._transport.set_write_buffer_limits(high, low)

    def pause_reading(self) -> None:
        """Read nothing for the time being."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    def is_reading(self) -> bool:
        """Tell whether it reads."""
        return self._transport.is_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what comes to another protocol."""
        self.flush()
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return whom what comes is given to."""
        return self._transport.get_protocol()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what else is known of the connection."""
        return self._transport.get_extra_info(name, default)
