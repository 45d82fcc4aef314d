"""A member of etcd as far as one client can tell: it answers what a test lets it answer."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

CLUSTER = "17237436991929493444"


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def header(revision: int) -> dict[str, str]:
    return {"cluster_id": CLUSTER, "member_id": "1", "revision": str(revision)}


def record(key: str, value: object, revision: int, version: int = 1) -> dict[str, str]:
    """A record below /apisix, created with its first version."""
    return {
        "key": base64_of(f"/apisix/{key}".encode()),
        "value": base64_of(json.dumps(value).encode()),
        "create_revision": str(revision - version + 1),
        "mod_revision": str(revision),
        "version": str(version),
    }


def page(revision: int, *records: dict[str, str], more: bool = False) -> dict[str, Any]:
    return {"header": header(revision), "kvs": list(records), **({"more": True} if more else {})}


def created(revision: int) -> dict[str, Any]:
    return {"result": {"header": header(revision), "watch_id": "1", "created": True}}


def put(revision: int, *records: dict[str, str]) -> dict[str, Any]:
    return {"result": {"header": header(revision), "watch_id": "1", "events": [{"kv": found} for found in records]}}


def end_of_poll() -> dict[str, Any]:
    return {"error": {"grpc_code": 4, "http_code": 504, "message": "context deadline exceeded"}}


def answer(body: object, status: str = "200 OK", close: bool = False) -> bytes:
    """A call's answer as bytes of HTTP."""
    raw = json.dumps(body).encode()
    last = "Connection: close\r\n" if close else ""
    return f"HTTP/1.1 {status}\r\n{last}Content-Length: {len(raw)}\r\n\r\n".encode() + raw


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def line(message: object) -> bytes:
    return chunk(json.dumps(message).encode() + b"\n")


def last_line(message: object) -> bytes:
    """An error at the end of a stream: it has no newline."""
    return chunk(json.dumps(message).encode()) + END


async def until(holds: Callable[[], object], what: str, patience: float = 20.0) -> None:
    """Let the loop run until something is true."""
    try:
        async with asyncio.timeout(patience):
            while not holds():  # noqa: ASYNC110 - what is waited for sets no event
                await asyncio.sleep(0.001)
    except TimeoutError:
        raise AssertionError(f"not within {patience} s: {what}") from None


class FakeEtcd:
    """A server on a free port; ``reply`` turns path and body of a request into bytes to send, None hangs up."""

    def __init__(self, reply: Callable[[str, dict[str, Any]], bytes | None]) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0  # in all that were asked for more than the version
        self.open = 0  # now
        self._reply = reply
        self._writers: set[asyncio.StreamWriter] = set()
        self._counted: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self) -> "FakeEtcd":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await until(lambda: not self.open, "the connections are closed")

    def send(self, data: bytes) -> None:
        """Send more on every open connection."""
        for writer in self._writers:
            writer.write(data)

    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.open += 1
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has hung up
        finally:
            self._writers.discard(writer)
            writer.transport.abort()
            self.open -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(row.lower().split(": ", 1) for row in head.split("\r\n")[1:] if row)
        path = head.split(" ")[1]
        if path == "/version":
            writer.write(answer({"etcdserver": "3.6.1", "etcdcluster": "3.6.0"}))
            return True
        body = json.loads(await reader.readexactly(int(fields["content-length"])))
        self.requests.append((path, body))
        if writer not in self._counted:
            self._counted.add(writer)
            self.connections += 1
        reply = self._reply(path, body)
        if reply is None:
            return False
        writer.write(reply)
        await writer.drain()
        return b"connection: close" not in reply.lower()
