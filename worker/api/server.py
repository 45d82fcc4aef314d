"""ApiServer: serves an address that is not for clients, in one worker, beside the requests."""

import asyncio
import socket
from collections.abc import Callable

from worker.accepting import Acceptor
from worker.api.http import ControlConnection
from worker.api.messages import Outcome, Request
from worker.api.turns import Turns

MAX_CONNECTIONS = 64


class ApiServer:
    """The connections to one address; ``draining`` once it accepts nobody any more."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, backlog: int, handle: Callable[[Request], Outcome], turns: Turns
    ) -> None:
        """Let ``handle`` decide what to answer; ``turns`` are those of all servers of the worker."""
        self.draining = False
        self.turns = turns
        self.handle = handle
        self._loop = loop
        self._backlog = backlog
        self._acceptor: Acceptor | None = None
        self._connections: set[ControlConnection] = set()

    async def listen(self, sockets: list[socket.socket]) -> None:
        """Accept on these from now on; once.

        Raises:
            OSError: one of them cannot be listened on.
        """
        self._acceptor = Acceptor(self._loop, lambda: ControlConnection(self, self._loop), self._backlog, 0, sockets)
        await self._acceptor.start()

    def drain(self) -> None:
        """Accept nobody any more; what is being answered is finished."""
        self.draining = True
        if self._acceptor is not None:
            self._acceptor.pause()
        for connection in list(self._connections):
            connection.drain()

    def resume(self) -> None:
        """Accept again, after ``drain``."""
        self.draining = False
        if self._acceptor is not None:
            self._acceptor.resume()

    def is_idle(self) -> bool:
        """Tell whether no client is left."""
        return not self._connections

    def close(self) -> None:
        """Cut every connection, and give up the sockets."""
        if self._acceptor is not None:
            self._acceptor.close()
        for connection in list(self._connections):
            connection.abort()

    # what connections need

    def admit(self, connection: ControlConnection) -> bool:
        """Count a connection in; False when there are ``MAX_CONNECTIONS`` already."""
        if len(self._connections) >= MAX_CONNECTIONS:
            return False
        self._connections.add(connection)
        return True

    def dismiss(self, connection: ControlConnection) -> None:
        """Count it out."""
        self._connections.discard(connection)
