"""HTTP/1.1 as a client that forgives nothing: every way in which an answer can fail to come has its own name.

Sockets are used directly, since a library would retry, or call a reset and an end by the same name.
"""

import asyncio
import re
import socket
import time
from collections.abc import Callable

from benchmarks.reload.tally import Fault

READ_BYTES = 65_536
MAX_HEAD_BYTES = 65_536
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) ")


class Failed(Exception):
    """A request has failed."""

    def __init__(self, fault: Fault, where: str, detail: str = "") -> None:
        super().__init__(f"{fault} ({where}) {detail}")
        self.fault = fault
        self.where = where
        self.detail = detail


class Answer:
    """The head of an answer."""

    __slots__ = ("closes", "fields", "length", "status")

    def __init__(self, head: bytes) -> None:
        """Read it.

        Raises:
            Failed: it is malformed.
        """
        line, *lines = head.split(b"\r\n")
        found = _STATUS_LINE.match(line)
        if found is None:
            raise Failed(Fault.MALFORMED, "head", repr(line[:80]))
        self.status = int(found[1])
        self.fields: dict[bytes, bytes] = {}
        for field in lines:
            name, colon, value = field.partition(b":")
            if not colon:
                raise Failed(Fault.MALFORMED, "head", repr(field[:80]))
            self.fields[name.lower()] = value.strip()
        self.closes = b"close" in self.fields.get(b"connection", b"").lower()
        chunked = self.fields.get(b"transfer-encoding", b"").lower() == b"chunked"
        length = self.fields.get(b"content-length")
        if chunked == (length is not None) and self.status != 101:
            raise Failed(Fault.MALFORMED, "head", "neither Content-Length nor chunks, or both")
        self.length = None if length is None else int(length)  # None: chunked


class Connection:
    """A connection to the gateway."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, opened: float) -> None:
        self._loop = loop
        self._sock = sock
        self._data = b""
        self.opened = opened  # when it was asked for: this process may be late to see that it is there
        self.port: int = sock.getsockname()[1]

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a port of 127.0.0.1.

        Raises:
            Failed: nobody listens, or the connection is reset.
        """
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            opened = time.monotonic()
            await loop.sock_connect(sock, ("127.0.0.1", port))
            return cls(loop, sock, opened)
        except ConnectionRefusedError as error:
            sock.close()
            raise Failed(Fault.REFUSED, "connect") from error
        except OSError as error:
            sock.close()
            raise Failed(Fault.RESET, "connect", str(error)) from error
        except BaseException:
            sock.close()
            raise

    def close(self) -> None:
        """Close it."""
        self._sock.close()

    async def send(self, data: bytes) -> None:
        """Send all of it; raises Failed."""
        try:
            await self._loop.sock_sendall(self._sock, data)
        except OSError as error:
            raise Failed(Fault.RESET, "send", str(error)) from error

    async def receive(self, where: str) -> bytes:
        """Return what comes next, nothing at the end; raises Failed."""
        if self._data:
            data, self._data = self._data, b""
            return data
        try:
            return await self._loop.sock_recv(self._sock, READ_BYTES)
        except OSError as error:
            raise Failed(Fault.RESET, where, str(error)) from error

    async def head(self) -> Answer:
        """Receive the head of an answer; raises Failed."""
        data = await self.receive("head")
        if not data:
            raise Failed(Fault.EOF, "head")
        while (end := data.find(b"\r\n\r\n")) < 0:
            more = await self.receive("head")
            if not more:
                raise Failed(Fault.TRUNCATED, "head", repr(data[-80:]))
            data += more
            if len(data) > MAX_HEAD_BYTES:
                raise Failed(Fault.MALFORMED, "head", "no end")
        self._data = data[end + 4 :]
        return Answer(data[:end])

    async def body(self, answer: Answer, feed: Callable[[bytes], object]) -> None:
        """Receive the body of an answer piece by piece; raises Failed, also when something follows it."""
        if answer.length is None:
            await self._chunks(feed)
        else:
            await self._exactly(answer.length, feed)
        if self._data:
            raise Failed(Fault.MALFORMED, "body", f"{len(self._data)} bytes behind the answer")

    async def _exactly(self, left: int, feed: Callable[[bytes], object]) -> None:
        while left:
            data = await self._some_body()
            feed(data[:left])
            self._data = data[left:]
            left -= min(left, len(data))

    async def _chunks(self, feed: Callable[[bytes], object]) -> None:
        while True:
            line = await self._line()
            try:
                size = int(line, 16)
            except ValueError:
                raise Failed(Fault.MALFORMED, "body", f"chunk size {line[:40]!r}") from None
            await self._exactly(size, feed)
            if await self._line() != b"":
                raise Failed(Fault.MALFORMED, "body", "no end of a chunk, or trailers")
            if not size:
                return

    async def _line(self) -> bytes:
        data = b""
        while (end := data.find(b"\r\n")) < 0:
            data += await self._some_body()
        self._data = data[end + 2 :]
        return data[:end]

    async def _some_body(self) -> bytes:
        data = await self.receive("body")
        if not data:
            raise Failed(Fault.TRUNCATED, "body")
        return data

    async def ended(self) -> None:
        """Wait for the end that was announced; raises Failed when it is a reset, or something else comes."""
        if await self.receive("close"):
            raise Failed(Fault.MALFORMED, "close", "bytes behind the last answer")
