"""The clients: what each kind does until it is stopped.

A request on a connection that is kept alive must be answered when the answer before it did not say ``Connection:
close``: there is no second try for anything.
"""

import asyncio
import base64
import hashlib
import itertools
import os
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from benchmarks.reload import websocket
from benchmarks.reload.tally import Client, Closing, Failure, Fault, Tally
from benchmarks.reload.upstream import content
from benchmarks.reload.wire import Connection, Failed

PATIENCE = 30.0  # seconds for an answer, beyond those it is meant to take
THINK = (0.001, 0.020)  # seconds between an answer and the next request
AFTER_FAILURE = 0.02
UPLOAD_PIECES = 20
BODY_BYTES = (20_000, 200_000)

T = TypeVar("T")

_numbers = itertools.count()


class Group(msgspec.Struct, frozen=True):
    """Clients that are started and stopped together."""

    name: str
    port: int
    new: int = 0
    kept: int = 0
    websockets: int = 0
    uploads: int = 0
    downloads: int = 0
    transfer: tuple[float, float] = (2.0, 4.0)  # seconds that a slow body takes
    message_pause: float = 0.2  # seconds between two messages of a WebSocket's client

    def clients(self, tally: Tally, gate: "Gate") -> "list[Requester]":
        """Make its clients."""
        kinds: list[tuple[int, type[Requester]]] = [
            (self.new, NewConnections),
            (self.kept, KeepAlive),
            (self.websockets, WebSockets),
            (self.uploads, Uploads),
            (self.downloads, Downloads),
        ]
        return [kind(self, tally, gate) for count, kind in kinds for _ in range(count)]


class Gate:
    """What the clients of a group are told while they run."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        self.expects_since = 0.0  # connections begun later must not be refused; before, that is no failure


class Requester:
    """One client; what it asks is up to its kind."""

    client: Client

    def __init__(self, group: Group, tally: Tally, gate: Gate) -> None:
        self.group = group
        self.tally = tally
        self._gate = gate
        self._connection: Connection | None = None
        self._answered = 0.0  # when the last answer was complete

    async def run(self) -> None:
        """Ask until told to stop."""
        while not self._gate.stopping.is_set():
            await asyncio.sleep(random.uniform(*THINK))
            begun = time.monotonic()
            try:
                async with asyncio.timeout(self.group.transfer[1] + PATIENCE):
                    await self.ask()
                self.tally.answer(self.client, time.monotonic() - begun)
            except Failed as error:
                await self._failed(error, begun)
            except TimeoutError:
                await self._failed(Failed(Fault.TIMEOUT, "exchange"), begun)
        self.hang_up()

    async def ask(self) -> None:
        """Ask once; raises Failed."""
        raise NotImplementedError

    async def connection(self) -> Connection:
        """Return the connection that is open, or a new one; raises Failed."""
        if self._connection is None:
            self._connection = await Connection.open(self.group.port)
            self.tally.connections[self.client] += 1
        return self._connection

    def hang_up(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def answer(self, connection: Connection, feed: Callable[[bytes], object]) -> None:
        """Receive an answer that must be good, and the end of the connection when that is announced; raises Failed."""
        answer = await connection.head()
        if answer.status != 200:
            raise Failed(Fault.STATUS, "head", str(answer.status))
        await connection.body(answer, feed)
        self._answered = time.monotonic()
        if answer.closes:
            await connection.ended()
            self.hang_up()

    async def _failed(self, error: Failed, begun: float) -> None:
        connection = self._connection
        opened, port = (begun, 0) if connection is None else (connection.opened, connection.port)
        if error.fault is not Fault.REFUSED or begun > self._gate.expects_since:
            quiet = max(0.0, begun - self._answered) if opened < self._answered else 0.0
            circumstances = error.where, error.detail, opened, time.monotonic(), port, quiet
            self.tally.fail(Failure(self.group.name, self.client, error.fault, *circumstances))
        self.hang_up()
        await asyncio.sleep(AFTER_FAILURE)

    async def ask_for_token(self, fields: bytes = b"") -> None:
        """Ask for something that nobody else is told; raises Failed."""
        connection = await self.connection()
        token = b"%d" % next(_numbers)
        await connection.send(b"GET /token/%b HTTP/1.1\r\nHost: a.com\r\n%b\r\n" % (token, fields))
        got = bytearray()
        await self.answer(connection, got.extend)
        if got != token:
            raise Failed(Fault.BODY, "body", f"{bytes(got[:40])!r} instead of {token!r}")


class NewConnections(Requester):
    """A connection for each request."""

    client = Client.NEW

    async def ask(self) -> None:
        """Connect, ask, and see the connection end."""
        await self.ask_for_token(b"Connection: close\r\n")
        if self._connection is not None:
            raise Failed(Fault.MALFORMED, "head", "no Connection: close although the client has asked for it")


class KeepAlive(Requester):
    """One request after the other on a connection."""

    client = Client.KEPT

    async def ask(self) -> None:
        """Ask on the connection that is open."""
        await self.ask_for_token()


class Uploads(Requester):
    """Bodies that are sent slowly, with a length or in chunks."""

    client = Client.UPLOAD

    async def ask(self) -> None:
        """Send a body; the answer is its digest."""
        connection = await self.connection()
        number = next(_numbers)
        body = content(number, random.randint(*BODY_BYTES))
        chunked = number % 2 == 1
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
        await connection.send(b"POST /upload HTTP/1.1\r\nHost: a.com\r\n%b\r\n\r\n" % length)
        pause = random.uniform(*self.group.transfer) / UPLOAD_PIECES
        step = len(body) // UPLOAD_PIECES + 1
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await asyncio.sleep(pause)
        if chunked:
            await connection.send(b"0\r\n\r\n")
        got = bytearray()
        await self.answer(connection, got.extend)
        if got.decode() != f"{len(body)} {hashlib.sha256(body).hexdigest()}":
            raise Failed(Fault.BODY, "body", f"upload of {len(body)} bytes: {got.decode()}")


class Downloads(Requester):
    """Bodies that come slowly."""

    client = Client.DOWNLOAD

    async def ask(self) -> None:
        """Ask for a body, and compare its digest."""
        connection = await self.connection()
        number, size = next(_numbers), random.randint(*BODY_BYTES)
        duration = int(random.uniform(*self.group.transfer) * 1000)
        await connection.send(b"GET /download/%d/%d/%d HTTP/1.1\r\nHost: a.com\r\n\r\n" % (number, size, duration))
        digest = hashlib.sha256()
        await self.answer(connection, digest.update)
        if digest.digest() != hashlib.sha256(content(number, size)).digest():
            raise Failed(Fault.BODY, "body", f"download of {size} bytes")


class WebSockets(Requester):
    """A WebSocket on which both sides talk; a new one when it is closed."""

    client = Client.WEBSOCKET

    def __init__(self, group: Group, tally: Tally, gate: Gate) -> None:
        super().__init__(group, tally, gate)
        self._sent: deque[bytes] = deque()
        self._ticks = 0

    async def run(self) -> None:
        """Talk until told to stop."""
        while not self._gate.stopping.is_set():
            begun = time.monotonic()
            self._sent.clear()
            self._ticks = 0
            try:
                connection = await _in_time(self.connection())
                await _in_time(self._shake_hands(connection))
                self.tally.answer(self.client, time.monotonic() - begun)
                await self._talk(connection)
            except Failed as error:
                await self._failed(error, begun)
            self.hang_up()

    async def _talk(self, connection: Connection) -> None:
        frames = websocket.Frames(masked=False)
        sending = asyncio.create_task(self._send(connection))
        try:
            while True:
                data = await _in_time(connection.receive("message"))
                if not data:
                    raise Failed(Fault.TRUNCATED, "message", "the end without a Close frame")
                for opcode, payload in _messages(frames, data):
                    if opcode == websocket.CLOSE:
                        self._closed(connection, payload)
                        return
                    self._received(payload)
        finally:
            sending.cancel()

    async def _shake_hands(self, connection: Connection) -> None:
        key = base64.b64encode(os.urandom(16))
        await connection.send(
            b"GET /ws HTTP/1.1\r\nHost: a.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % key
        )
        answer = await connection.head()
        if answer.status != 101:
            raise Failed(Fault.STATUS, "head", str(answer.status))
        if answer.fields.get(b"sec-websocket-accept") != websocket.accept_value(key):
            raise Failed(Fault.MALFORMED, "head", "Sec-WebSocket-Accept")

    def _received(self, payload: bytes) -> None:
        self.tally.messages += 1
        if payload.startswith(b"tick "):
            right = b"tick %d" % self._ticks
            self._ticks += 1
        else:
            right = b"echo " + self._sent.popleft() if self._sent else b""
        if payload != right:
            raise Failed(Fault.BODY, "message", f"{payload[:40]!r} instead of {right[:40]!r}")

    def _closed(self, connection: Connection, payload: bytes) -> None:
        code = websocket.close_code(payload)
        if self._gate.stopping.is_set() and code == websocket.NORMAL:
            if self._sent:
                raise Failed(Fault.TRUNCATED, "message", f"{len(self._sent)} messages were not sent back")
            return
        reason = payload[2:].decode(errors="replace")
        self.tally.closings.append(Closing(connection.opened, time.monotonic(), code, connection.port, reason))

    async def _send(self, connection: Connection) -> None:
        number = 0
        try:
            while not await self._stops_within(self.group.message_pause * random.uniform(0.5, 1.5)):
                message = b"%d " % number + os.urandom(random.randint(1, 500))
                number += 1
                self._sent.append(message)
                await connection.send(websocket.frame(websocket.BINARY, message, masked=True))
            goodbye = websocket.NORMAL.to_bytes(2, "big")
            await connection.send(websocket.frame(websocket.CLOSE, goodbye, masked=True))
        except Failed:
            return  # who receives sees it too

    async def _stops_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._gate.stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True


def _messages(frames: websocket.Frames, data: bytes) -> list[tuple[int, bytes]]:
    try:
        return frames.feed(data)
    except websocket.FrameError as error:
        raise Failed(Fault.MALFORMED, "message", str(error)) from error


async def _in_time(work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(PATIENCE):
            return await work
    except TimeoutError:
        raise Failed(Fault.TIMEOUT, "exchange") from None
