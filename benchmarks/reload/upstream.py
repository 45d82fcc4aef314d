"""The upstream of the load, a process: ``python -m benchmarks.reload.upstream``; it prints its port.

/token/NAME                   the name
/upload                       how many bytes came, and their SHA-256
/download/SEED/BYTES/MS       so many bytes, which follow from the seed, over so many milliseconds
/ws                           a WebSocket: what comes is sent back behind "echo ", and "tick N" is sent on its own
"""

import asyncio
import hashlib
import random
import subprocess
import sys
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import uvloop

from benchmarks.reload import websocket

ROOT = Path(__file__).resolve().parents[2]
TICK = 0.5  # seconds between two messages of a WebSocket's server
PIECES = 20  # of a slow body


def content(seed: int, size: int) -> bytes:
    """Return the bytes that follow from a seed."""
    return random.Random(seed).randbytes(size)


class Upload:
    """A body that comes."""

    def __init__(self, length: int | None) -> None:
        """Expect so many bytes; None: chunks."""
        self._left = length
        self._digest = hashlib.sha256()
        self._taken = 0
        self._data = b""

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; returns the answer when all have come."""
        self._data += data
        if self._left is not None:
            self._left -= len(self._data)
            self._take(self._data)
            self._data = b""
            return self._answer() if self._left == 0 else None
        while (end := self._data.find(b"\r\n")) >= 0:
            size = int(self._data[:end], 16)
            if len(self._data) < end + size + 4:
                return None
            self._take(self._data[end + 2 : end + 2 + size])
            self._data = self._data[end + size + 4 :]
            if not size:
                return self._answer()
        return None

    def _take(self, piece: bytes) -> None:
        self._digest.update(piece)
        self._taken += len(piece)

    def _answer(self) -> bytes:
        return f"{self._taken} {self._digest.hexdigest()}".encode()


class Talk(asyncio.Protocol):
    """A connection of the gateway."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._data = b""
        self._tasks: set[asyncio.Task[None]] = set()
        self._frames: websocket.Frames | None = None
        self._upload: Upload | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what was being sent."""
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request, or of a WebSocket."""
        if self._frames is not None:
            self._talk(self._frames, data)
        elif self._upload is not None:
            self._take_body(self._upload, data)
        else:
            self._data += data
            end = self._data.find(b"\r\n\r\n")
            if end >= 0:
                head, rest, self._data = self._data[:end], self._data[end + 4 :], b""
                self._begin(head, rest)

    def _begin(self, head: bytes, rest: bytes) -> None:
        _, name, *words = head.split(b" ", 2)[1].split(b"/")
        if name == b"token":
            self._answer(words[0])
        elif name == b"upload":
            length = _fields(head).get(b"content-length")
            self._upload = Upload(None if length is None else int(length))
            self._take_body(self._upload, rest)
        elif name == b"download":
            seed, size, duration = map(int, words)
            self._start(self._send_slowly(seed, size, duration / 1000))
        elif name == b"ws":
            self._switch(_fields(head)[b"sec-websocket-key"], rest)
        else:
            self._answer(b"unknown", b"404 Not Found")

    def _answer(self, body: bytes, status: bytes = b"200 OK") -> None:
        self._transport.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    def _take_body(self, upload: Upload, data: bytes) -> None:
        answer = upload.feed(data)
        if answer is not None:
            self._upload = None
            self._answer(answer)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_slowly(self, seed: int, size: int, duration: float) -> None:
        body = content(seed, size)
        chunked = seed % 2 == 1
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
        self._transport.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % length)
        step = size // PIECES + 1
        for at in range(0, size, step):
            piece = body[at : at + step]
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await asyncio.sleep(duration / PIECES)
        if chunked:
            self._transport.write(b"0\r\n\r\n")

    # WebSockets

    def _switch(self, key: bytes, rest: bytes) -> None:
        self._frames = websocket.Frames(masked=True)
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % websocket.accept_value(key)
        )
        self._start(self._tick())
        self._talk(self._frames, rest)

    async def _tick(self) -> None:
        await asyncio.sleep(random.uniform(0, TICK))
        number = 0
        while True:
            self._transport.write(websocket.frame(websocket.BINARY, b"tick %d" % number))
            number += 1
            await asyncio.sleep(TICK)

    def _talk(self, frames: websocket.Frames, data: bytes) -> None:
        for opcode, payload in frames.feed(data):
            if opcode == websocket.CLOSE:
                for task in self._tasks:
                    task.cancel()
                self._transport.write(websocket.frame(websocket.CLOSE, payload))
                self._transport.close()
            elif opcode == websocket.BINARY:
                self._transport.write(websocket.frame(websocket.BINARY, b"echo " + payload))


def _fields(head: bytes) -> dict[bytes, bytes]:
    lines = (line.partition(b": ") for line in head.split(b"\r\n")[1:])
    return {name.lower(): value for name, _, value in lines}


class Upstream:
    """The process, seen from outside; a context manager."""

    def __init__(self) -> None:
        self.port = 0
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        command = [sys.executable, "-m", "benchmarks.reload.upstream"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Talk, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)  # who has started us is gone
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(_serve())
