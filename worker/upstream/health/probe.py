"""One probe of one target: connect, and for http and https read the status line (upstreams.md section 8)."""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import cast
from weakref import WeakValueDictionary

from worker.errors import ProxyError
from worker.upstream.health.checker import Checker, Target, is_address
from worker.upstream.health.machine import Report
from worker.upstream.tls import SYSTEM, build_context

Resolve = Callable[[str], Awaitable[str]]
"""Returns an address of a name; raises ProxyError or OSError when there is none."""

MAX_LINE_BYTES = 4_096
_STATUS_LINE = re.compile(rb"HTTP/[0-9]+\.[0-9]+[ \t]+([0-9]{3})(?![0-9])")
_SERVER_NAME = re.compile(r"\[([^\]]*)\](?::[0-9]+)?|([^:]+)(?::[0-9]+)?")


class StatusLine(asyncio.Protocol):
    """Sends a request, and waits for the status of its answer; ``status`` is 0 when the line cannot be read."""

    def __init__(self, request: bytes, status: "asyncio.Future[int]") -> None:
        self._request = request
        self._status = status
        self._line = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send."""
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        """Read until the line is complete."""
        self._line += data
        if b"\n" in self._line or len(self._line) > MAX_LINE_BYTES:
            found = _STATUS_LINE.match(self._line)
            self._settle(int(found[1]) if found is not None else 0)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail: there is no line."""
        if not self._status.done():
            self._status.set_exception(exc if isinstance(exc, OSError) else ConnectionError("closed"))

    def _settle(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)


class TlsContexts:
    """The contexts of https probes, made when the first is needed: reading the system's certificates takes long.

    They show no client certificate, nor do those of APISIX.
    """

    def __init__(self, authorities: str = SYSTEM) -> None:
        """Verify against the PEM file ``authorities``, or the system's."""
        self._authorities = authorities
        self._made: dict[bool, ssl.SSLContext] = {}

    async def get(self, verify: bool) -> ssl.SSLContext:
        """Return a context that verifies certificates, or not.

        Raises:
            OSError: the authorities cannot be read.
        """
        if verify not in self._made:
            loop = asyncio.get_running_loop()
            try:
                context = await loop.run_in_executor(None, build_context, (), verify, self._authorities)
            except OSError as error:
                raise OSError(f"ssl.ssl_trusted_certificate {self._authorities}: {error}") from error
            context.endpoints = WeakValueDictionary()  # no session is kept
            self._made[verify] = context
        return self._made[verify]


async def probe(
    checker: Checker, target: Target, contexts: TlsContexts, resolve: Resolve | None = None
) -> Report | None:
    """Probe a target once, within the checker's time-out; None when its answer means nothing.

    Without ``resolve`` names are resolved as the system does, in a thread.
    """
    context = await contexts.get(checker.active.https_verify_certificate) if checker.active.type == "https" else None
    try:
        async with asyncio.timeout(checker.timeout):
            address = await resolve(target.host) if resolve and not is_address(target.host) else target.host
            if checker.active.type == "tcp":
                await _connect(address, target.port)
                return Report.SUCCESS
            status = await _ask(checker, target, address, context)
    except TimeoutError:
        return Report.TIMEOUT
    except (OSError, ProxyError, UnicodeError):  # UnicodeError: a name that cannot be one
        return Report.TCP_FAILURE
    return checker.report_of(status) if status else Report.HTTP_FAILURE


async def _connect(address: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, address, port)
    transport.abort()


async def _ask(checker: Checker, target: Target, address: str, context: ssl.SSLContext | None) -> int:
    loop = asyncio.get_running_loop()
    status: asyncio.Future[int] = loop.create_future()
    request = checker.request_for(target)
    transport, _ = await loop.create_connection(
        lambda: StatusLine(request, status),
        address,
        target.port,
        ssl=context,
        server_hostname=server_name(checker.host_of(target)) if context is not None else None,
    )
    try:
        return await status
    finally:
        transport.abort()


def server_name(host: str) -> str:
    """Return the name for the TLS handshake: a Host without port and brackets."""
    found = _SERVER_NAME.fullmatch(host)
    return (found[1] or found[2]) if found is not None else host
