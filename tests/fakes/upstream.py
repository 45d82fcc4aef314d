"""A real HTTP/1.1 upstream in a thread of its own; what it answers depends on the path.

/echo            the request's head and body as JSON
/bytes/N         N bytes with a Content-Length
/chunked         two chunks and a trailer
/close           a body that ends with the connection
/slow?s=F        the name after F seconds
/drop            the connection is closed without an answer
/status/N        an empty answer with that status
anything else    its name
"""

import asyncio
import contextlib
import json
import ssl
import threading
from types import TracebackType


class Upstream:
    """Serves from ``with`` to its end on ``port``; ``requests`` are the heads it has read.

    ``delay`` are the seconds before each answer, and ``busiest`` is the largest number of requests at one time. With
    ``tls`` it speaks TLS, and ``handshakes`` are those of the connections accepted.
    """

    def __init__(
        self,
        name: str = "upstream",
        delay: float = 0.0,
        tls: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.name = name
        self.delay = delay
        self.busy = 0
        self.busiest = 0
        self.handshakes: list[ssl.SSLObject] = []
        self._tls = tls
        self._address = address
        self.port = 0
        self.requests: list[bytes] = []
        self.body_bytes = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._stopping: asyncio.Event

    def __enter__(self) -> "Upstream":
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._tls is not None:
                self.handshakes.append(writer.get_extra_info("ssl_object"))
            task = self._loop.create_task(self._talk(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accepted, self._address, self.port, limit=1 << 20, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopping.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports close in the step after this one

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    self.requests.append(head)
                    body = await self._read_body(reader, head)
                    self.busy += 1
                    self.busiest = max(self.busiest, self.busy)
                    try:
                        if self.delay:
                            await asyncio.sleep(self.delay)
                        if not await self._answer(head, body, writer):
                            break
                    finally:
                        self.busy -= 1
                    await writer.drain()
        finally:
            if self._stopping.is_set():
                writer.transport.abort()  # to take leave by TLS would take time
            else:
                writer.close()

    async def _read_body(self, reader: asyncio.StreamReader, head: bytes) -> bytes:
        lower = head.lower()
        if b"\r\ntransfer-encoding: chunked" in lower:
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return body
        at = lower.find(b"\r\ncontent-length: ")
        if at < 0:
            return b""
        left = int(lower[at + 18 : lower.index(b"\r\n", at + 2)])
        kept = b""
        while left:
            piece = await reader.read(min(left, 1 << 18))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            self.body_bytes += len(piece)
            kept = piece if len(kept) + len(piece) > 1 << 16 else kept + piece
        return kept

    async def _answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        path = head.split(b" ")[1].partition(b"?")
        first, _, rest = path[0].decode().lstrip("/").partition("/")
        if first == "echo":
            sent = json.dumps({"name": self.name, "head": head.decode("latin-1"), "body": body.decode("latin-1")})
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(sent), sent.encode()))
        elif first == "bytes":
            await self._send_bytes(int(rest), writer)
        elif first == "chunked":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await writer.drain()
            writer.write(b"6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n")
        elif first == "close":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
            return False
        elif first == "drop":
            return False
        elif first == "status":
            writer.write(b"HTTP/1.1 %b Status\r\nContent-Length: 0\r\n\r\n" % rest.encode())
        else:
            if first == "slow":
                await asyncio.sleep(float(path[2].partition(b"=")[2]))
            name = self.name.encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(name))
            if not head.startswith(b"HEAD"):
                writer.write(name)
        return True

    async def _send_bytes(self, count: int, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % count)
        piece = b"x" * 65536
        while count:
            writer.write(piece[:count])
            count -= min(count, len(piece))
            await writer.drain()
