"""One HTTP/1.1 connection to an etcd member, kept alive between calls.

A call is answered by one body, a watch by lines for as long as it lasts. The connection knows no meaning: it
tells its owner what has come. At most one request is under way.
"""

import asyncio
import ssl
from typing import Protocol, cast
from urllib.parse import urlsplit

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpResponseParser

from config_sync.errors import SettingsError
from config_sync.etcd.messages import LineSplitter
from config_sync.settings import EtcdSettings

CONNECT_TIMEOUT = 1.5  # seconds (etcd-http-gateway.md section 7)


class Endpoint:
    """An address of a member and how to talk to it."""

    __slots__ = ("authority", "host", "port", "server_name", "tls", "url")

    def __init__(self, url: str, settings: EtcdSettings) -> None:
        """Take a URL apart; for https the certificate files are read.

        Raises:
            SettingsError: the URL or the certificate files are of no use.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port or 2379
        except ValueError as error:
            raise SettingsError(f"etcd.host: {url!r}: {error}") from error
        if parts.scheme not in ("http", "https") or not host:
            raise SettingsError(f"etcd.host: {url!r} is no http:// or https:// address")
        self.url = url
        self.host = host
        self.port = port
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.tls = _tls(settings) if parts.scheme == "https" else None
        self.server_name = (settings.tls.sni or self.host) if self.tls is not None else None


def _tls(settings: EtcdSettings) -> ssl.SSLContext:
    files = settings.tls
    for name in ("ca", "cert", "key"):
        _check_readable(f"etcd.tls.{name}", getattr(files, name))
    try:
        # With a CA of its own nothing else is trusted, not even the system's.
        context = ssl.create_default_context(cafile=files.ca or None)
        if files.cert:
            context.load_cert_chain(files.cert, files.key or None)
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(name for name in (files.ca, files.cert, files.key) if name)
        raise SettingsError(f"etcd.tls: cannot use the certificate files {names}: {error}") from error
    # The server would choose h2 if it were offered (section 3).
    context.set_alpn_protocols(["http/1.1"])
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _check_readable(key: str, path: str) -> None:
    """See that a file can be read: what the library says of one that cannot does not name it."""
    try:
        if path:
            open(path, "rb").close()
    except OSError as error:
        raise SettingsError(f"{key}: {path}: {error.strerror}") from error


class Owner(Protocol):
    """Who is told what a connection brings."""

    def connected(self, connection: "EtcdConnection") -> None:
        """The connection can be used."""

    def answer_received(self, status: int, body: bytes) -> None:
        """A call has been answered, or a watch refused."""

    def lines_received(self, lines: list[bytes]) -> None:
        """Lines of the watch have come."""

    def stream_ended(self) -> None:
        """The watch has ended, in order as HTTP sees it."""

    def disconnected(self, connection: "EtcdConnection", reason: str) -> None:
        """The connection could not be opened, or is gone."""


class EtcdConnection(asyncio.Protocol):
    """A connection; made by ``open``, at its end after ``disconnected`` or ``close``."""

    def __init__(self, endpoint: Endpoint, owner: Owner) -> None:
        self.endpoint = endpoint
        self._owner: Owner | None = owner
        self._connecting: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._watching = False
        self._lines = LineSplitter()
        self._body = bytearray()
        self._status = 0
        self._keep_alive = True

    def is_open(self) -> bool:
        """Tell whether a request can be sent; if not yet, the owner is told when."""
        return self._transport is not None

    def is_reusable(self) -> bool:
        """Tell whether the last answer left the connection open for another request."""
        return self._keep_alive

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to connect; the owner is told how it went."""
        self._connecting = loop.create_task(self._connect(loop))

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        endpoint = self.endpoint
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.create_connection(
                    lambda: self,
                    endpoint.host,
                    endpoint.port,
                    ssl=endpoint.tls,
                    server_hostname=endpoint.server_name,
                )
        except (OSError, TimeoutError, UnicodeError) as error:  # UnicodeError: a name that no DNS can hold
            self._lost(f"cannot connect to {endpoint.url}: {error or 'no answer in time'}")

    def request(self, path: str, body: bytes, token: str, watching: bool = False, poll: int = 0) -> None:
        """Send a call (without a body a GET), or open a watch that the server ends after ``poll`` seconds."""
        assert self._transport is not None  # noqa: S101 - connected() has been called
        self._watching = watching
        self._body.clear()
        self._lines = LineSplitter()
        head = [
            f"{'POST' if body else 'GET'} {path} HTTP/1.1",
            f"Host: {self.endpoint.authority}",
        ]
        if body:
            head += [
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
                "Grpc-Metadata-hasleader: true",
            ]
        if token:
            head.append(f"Authorization: {token}")
        if poll:
            head.append(f"Grpc-Timeout: {poll}S")
        self._transport.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    def pause(self) -> None:
        """Read no more for now."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Close without telling the owner."""
        self._owner = None
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Tell the owner that it can begin."""
        self._transport = cast("asyncio.Transport", transport)
        if self._owner is None:
            self._transport.abort()
        else:
            self._owner.connected(self)

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        if self._owner is None:
            return
        try:
            self._parser.feed_data(data)
        except HttpParserCallbackError:
            raise  # a fault of ours, not of the member's: the loop logs it and closes
        except (HttpParserError, HttpParserUpgrade) as error:
            owner = self._owner
            self.close()
            if owner is not None:
                owner.disconnected(self, f"{self.endpoint.url} does not speak HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner."""
        self._lost(f"{self.endpoint.url} closed the connection" + (f": {exc}" if exc else ""))

    def _lost(self, reason: str) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.disconnected(self, reason)

    # httptools

    def on_headers_complete(self) -> None:
        """Note what kind of answer this is."""
        self._status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        """Pass lines on, or collect the answer."""
        if self._watching and self._status == 200:
            lines = self._lines.feed(data)
            if lines and self._owner is not None:
                self._owner.lines_received(lines)
        else:
            self._body += data

    def on_message_complete(self) -> None:
        """Hand the answer over, or the last line, which has no newline when it is an error."""
        owner = self._owner
        if owner is None:
            return
        if not self._watching or self._status != 200:
            owner.answer_received(self._status, bytes(self._body))
            return
        rest = self._lines.rest()
        if rest:
            owner.lines_received([rest])
        if self._owner is not None:
            owner.stream_ended()
