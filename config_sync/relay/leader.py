"""RelayServer: the leader's socket, and one connection for each follower.

A connection writes what its ``Feed`` has to say for as long as the socket takes it, and goes on when the socket takes
more; it holds at most ``BUFFER_BYTES`` and a frame. So the leader never waits for a follower.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from config_sync.relay.election import BACKLOG, listen, peer_uid
from config_sync.relay.feed import Feed, Source
from config_sync.relay.messages import FrameSplitter, Heartbeat, RelayError, frame, read_from_follower

log = logging.getLogger("propylon.sync")

HEARTBEAT = 0.3  # seconds
BUFFER_BYTES = 256 << 10
AT_ONCE = 8  # frames written before others have their turn: about a millisecond
_HEARTBEAT = frame(Heartbeat())


class FollowerConnection(asyncio.Protocol):
    """A follower, as the leader sees it."""

    def __init__(
        self, source: Source, loop: asyncio.AbstractEventLoop, gone: Callable[["FollowerConnection"], None]
    ) -> None:
        self._feed = Feed(source, os.getpid())
        self._loop = loop
        self._gone = gone
        self._splitter = FrameSplitter()
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._going_on: asyncio.Handle | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast("asyncio.Transport", transport)
        if peer_uid(self._transport.get_extra_info("socket")) != os.geteuid():
            log.error("another user's process asked for the configuration at the relay socket; it is refused")
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(BUFFER_BYTES)
        self.pump()

    def data_received(self, data: bytes) -> None:
        """Take what the follower says."""
        try:
            for payload in self._splitter.feed(data):
                self._feed.hello_received(read_from_follower(payload))
        except RelayError as error:
            log.error("relay: %s; the connection is closed", error)
            self.close()
        self.pump()

    def pause_writing(self) -> None:
        """Stop until the socket takes more."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        self.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the follower."""
        self.close()
        self._gone(self)

    # what the leader does

    def pump(self) -> None:
        """Write what there is to say, as long as the socket takes it."""
        if self._going_on is not None or self._transport is None:
            return
        for _ in range(AT_ONCE):
            if self._is_paused or self._transport.is_closing():
                return
            data = self._feed.next_frame(self._loop.time())
            if data is None:
                return
            self._transport.write(data)
        self._going_on = self._loop.call_soon(self._go_on)

    def beat(self) -> None:
        """Say that we are alive, unless the socket is full: then the follower has not read what proves it."""
        if self._transport is not None and not self._is_paused and not self._transport.is_closing():
            self._transport.write(_HEARTBEAT)
        self.pump()

    def close(self) -> None:
        """Close the connection."""
        if self._going_on is not None:
            self._going_on.cancel()
            self._going_on = None
        if self._transport is not None:
            self._transport.abort()

    def _go_on(self) -> None:
        self._going_on = None
        self.pump()


class RelayServer:
    """Serves followers, from ``start`` until ``stop``."""

    def __init__(self, path: Path, source: Source, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._source = source
        self._loop = loop
        self._socket: socket.socket | None = None
        self._server: asyncio.AbstractServer | None = None
        self._starting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._followers: set[FollowerConnection] = set()

    def start(self) -> None:
        """Listen, for the one who holds the lock.

        Raises:
            OSError: the socket cannot be made.
        """
        self._socket = listen(self._path)
        self._starting = self._loop.create_task(self._serve(self._socket))
        self._timer = self._loop.call_later(HEARTBEAT, self._beat)

    def stop(self) -> None:
        """Close every connection and take the socket away."""
        if self._timer is not None:
            self._timer.cancel()
        if self._starting is not None:
            self._starting.cancel()
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.close()
        for follower in list(self._followers):
            follower.close()
        self._followers.clear()
        with suppress(FileNotFoundError):
            self._path.unlink()

    def pump(self) -> None:
        """Tell every follower what is new."""
        for follower in self._followers:
            follower.pump()

    def followers(self) -> int:
        """Count them."""
        return len(self._followers)

    async def _serve(self, sock: socket.socket) -> None:
        self._server = await self._loop.create_unix_server(self._accept, sock=sock, backlog=BACKLOG)

    def _accept(self) -> FollowerConnection:
        follower = FollowerConnection(self._source, self._loop, self._followers.discard)
        self._followers.add(follower)
        return follower

    def _beat(self) -> None:
        for follower in list(self._followers):
            follower.beat()
        self._timer = self._loop.call_later(HEARTBEAT, self._beat)
