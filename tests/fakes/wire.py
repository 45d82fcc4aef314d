"""A wire between clients and one server, which can be cut, stalled and slowed."""

import asyncio
from urllib.parse import urlsplit

_PIECE = 65_536


class Wire:
    """A port of 127.0.0.1 that leads to a server; belongs to the event loop it was started on.

    Cut, it refuses: what is open is reset, and what is opened is reset at once. Stalled, it is silent: connections
    stay open and new ones are accepted, and bytes are held both ways until it is mended, as when a cable is pulled.
    """

    def __init__(self, url: str) -> None:
        """Prepare a wire to the server at an http or https address."""
        self._target = urlsplit(url)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.whole = True
        self.rate = 0.0  # bytes per second and direction; 0: as fast as it goes
        self.connections = 0  # accepted in all
        self.url = ""

    async def start(self) -> "Wire":
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"{self._target.scheme}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    @property
    def open(self) -> int:
        """The number of connections now."""
        return len(self._writers) // 2

    def cut(self) -> None:
        """End every connection at once, and new ones as soon as they are made."""
        self.whole = False
        self._flows.set()
        for writer in self._writers:
            writer.transport.abort()

    def stall(self) -> None:
        """Hold everything back, without a word."""
        self._flows.clear()

    def mend(self) -> None:
        """Carry again; what was held back is delivered."""
        self.whole = True
        self._flows.set()

    async def stop(self) -> None:
        """Cut it, and stop listening."""
        self.cut()
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        await self._flows.wait()
        if not self.whole:
            self._drop(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        except OSError:
            self._drop(writer)
            return
        self._writers.add(far_writer)
        if not self.whole:
            self._drop(writer)
            self._drop(far_writer)
            return
        for source, target in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pump(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(_PIECE):
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
                await self._flows.wait()
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass  # cut
        finally:
            self._drop(target)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()
