"""A wire between clients and one server, which can be cut, stalled and slowed."""

import asyncio
import base64
import re
import threading
from collections.abc import Callable
from types import TracebackType
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
        self.edit: Callable[[bytes], bytes] = lambda data: data  # what comes from the server, as often as it is read
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
        for source, target, edit in ((reader, far_writer, None), (far_reader, writer, self._edited)):
            task = asyncio.create_task(self._pump(source, target, edit))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _edited(self, data: bytes) -> bytes:
        return self.edit(data)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, edit: Callable[[bytes], bytes] | None
    ) -> None:
        try:
            while data := await source.read(_PIECE):
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
                await self._flows.wait()
                target.write(edit(data) if edit is not None else data)
                await target.drain()
        except ConnectionError:
            pass  # cut
        finally:
            self._drop(target)

    def _drop(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        writer.transport.abort()


class ThreadedWire:
    """A wire with a thread of its own, for tests that have no event loop; of use in ``with``."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._wire = Wire(url)
        self._hidden: list[bytes] = []
        self.url = ""

    def __enter__(self) -> "ThreadedWire":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._wire.start(), self._loop).result()
        self.url = self._wire.url
        self._wire.edit = self._edit
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._wire.stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """End every connection at once, and new ones as soon as they are made."""
        self._call(self._wire.cut)

    def mend(self) -> None:
        """Carry again."""
        self._call(self._wire.mend)

    def hide(self, key: str) -> None:
        """Withhold the next watch message about a key below /apisix/ from the one watcher it would reach first."""
        self._hidden.append(base64.b64encode(f"/apisix/{key}".encode()))

    @property
    def hides(self) -> bool:
        """Whether a message is still to be withheld."""
        return bool(self._hidden)

    def _edit(self, data: bytes) -> bytes:
        for key in self._hidden:
            # The framing stays what it is: what takes its place says nothing and has the same length.
            found = re.search(rb'\{"result":[^\n]*"events":[^\n]*' + re.escape(key) + rb'"[^\n]*\}', data)
            if found is not None:
                self._hidden.remove(key)
                nothing = b'{"result":{}}'.ljust(len(found[0]))
                return data[: found.start()] + nothing + data[found.end() :]
        return data

    def _call(self, what: Callable[[], None]) -> None:
        async def done() -> None:
            what()

        asyncio.run_coroutine_threadsafe(done(), self._loop).result()
