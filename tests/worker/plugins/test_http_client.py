"""The client for plugins, against a server of raw bytes."""

import asyncio
import importlib.util
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from config_sync.errors import ConfigError
from tests.fakes.certificates import Certificates
from worker.plugins.http_client import HttpClient, HttpFailed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\nX-A: 2\r\n\r\nok"


class Server:
    """Answers each request with the same bytes; ``None`` never does."""

    def __init__(self, answer: bytes | None = OK) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                self.bodies.append(await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b"")
                if self.answer is None:
                    await reader.read()
                    return
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def run(work: Callable[[HttpClient], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        client = HttpClient(asyncio.get_running_loop())
        try:
            await work(client)
        finally:
            client.close()
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_request_carries_what_it_is_given_and_nothing_else() -> None:
    async def work(client: HttpClient) -> None:
        async with Server() as server:
            url = f"http://127.0.0.1:{server.port}/a%2Fb?c=%20d"
            fields = [(b"X-One", b"1"), (b"X-One", b"2"), (b"X-Text", "ä".encode())]
            answer = await client.request("POST", url, fields=fields, body=b"abc", within=5)
            assert (answer.status, answer.body) == (200, b"ok")
            assert (answer.field(b"x-a"), answer.field(b"x-b")) == (b"1, 2", None)
            lines = server.heads[0].rstrip(b"\r\n").split(b"\r\n")
            assert lines[0] == b"POST /a%2Fb?c=%20d HTTP/1.1"
            assert sorted(line.lower() for line in lines[1:]) == sorted(
                [
                    b"host: 127.0.0.1:%d" % server.port,
                    *(b"x-one: 1", b"x-one: 2", "x-text: ä".encode(), b"content-length: 3"),
                ]
            )
            assert server.bodies == [b"abc"]

    run(work)


@pytest.mark.parametrize(("keepalive", "connections"), [(True, 1), (False, 3)])
def test_connections_are_kept_unless_told_otherwise(keepalive: bool, connections: int) -> None:
    async def work(client: HttpClient) -> None:
        async with Server() as server:
            for _ in range(3):
                await client.request("GET", f"http://127.0.0.1:{server.port}/", within=5, keepalive=keepalive)
            assert server.connections == connections

    run(work)


def test_redirections_are_answers_and_bodies_stay_encoded() -> None:
    async def work(client: HttpClient) -> None:
        answer = b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8bz"
        async with Server(answer) as server:
            found = await client.request("GET", f"http://127.0.0.1:{server.port}/", within=5)
            assert (found.status, found.body, found.field(b"location")) == (302, b"\x1f\x8bz", b"/x")

    run(work)


def test_no_answer_in_time_no_server_no_http_and_too_much_of_it_are_failures() -> None:
    async def work(client: HttpClient) -> None:
        async with Server(None) as server:
            url = f"http://127.0.0.1:{server.port}/x?secret=1"
            with pytest.raises(HttpFailed, match=r"no answer within 0\.05 s") as raised:
                await client.request("GET", url, within=0.05)
            assert "secret" not in str(raised.value)
        with pytest.raises(HttpFailed):
            await client.request("GET", f"http://127.0.0.1:{server.port}/", within=5)
        with pytest.raises(HttpFailed):
            await client.request("GET", "nonsense", within=5)
        async with Server(b"hello\r\n\r\n") as server:
            with pytest.raises(HttpFailed):
                await client.request("GET", f"http://127.0.0.1:{server.port}/", within=5)
        async with Server() as server:
            with pytest.raises(HttpFailed, match="larger than 1 bytes"):
                await client.request("GET", f"http://127.0.0.1:{server.port}/", within=5, largest=1)

    run(work)


def test_a_certificate_is_checked_unless_told_otherwise(tmp_path: Path) -> None:
    certificates = Certificates()
    authority = certificates.write_authority(tmp_path / "ca.pem")

    async def work(_: HttpClient) -> None:
        loop = asyncio.get_running_loop()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificates.server())
        url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
        stranger, friend = HttpClient(loop), HttpClient(loop, str(authority))
        with pytest.raises(HttpFailed, match=r"(?i)certificate"):
            await stranger.request("GET", url, within=5)
        assert (await stranger.request("GET", url, within=5, verify=False)).status == 204
        assert (await friend.request("GET", url, within=5)).status == 204
        stranger.close()
        friend.close()
        server.close()

    run(work)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    HttpClient.require("forward-auth")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"forward-auth needs an HTTP client: pip install propylon\[http\]"):
        HttpClient.require("forward-auth")
