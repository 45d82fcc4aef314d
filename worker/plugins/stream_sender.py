"""Connections over which loggers send what they have, one for each batch."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterable

from worker.plugins.batch import SendFailed

MAX_DATAGRAM = 65_507  # bytes; IPv4's


def unverified() -> ssl.SSLContext:
    """Make a context that takes any certificate, as APISIX's loggers do; some 100 us."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def send_stream(
    host: str, port: int, pieces: Iterable[bytes], within: float, context: ssl.SSLContext | None = None, name: str = ""
) -> None:
    """Open a connection, with TLS if there is a ``context``, send everything, and close it.

    Raises:
        SendFailed: that was not done within so many seconds, or cannot be.
    """
    try:
        async with asyncio.timeout(within):
            _, writer = await asyncio.open_connection(
                host, port, ssl=context, server_hostname=(name or host) if context is not None else None
            )
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                if writer.can_write_eof():
                    writer.write_eof()
            finally:
                writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    except TimeoutError as error:
        raise SendFailed(f"{host}:{port} does not take it within {within:g} s") from error
    except OSError as error:
        raise SendFailed(f"{host}:{port}: {error}") from error


async def send_datagrams(host: str, port: int, datagrams: Iterable[bytes], within: float) -> None:
    """Send each as a datagram.

    Raises:
        SendFailed: the host has no address, or it took too long to find that out.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(within):
            transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(host, port))
            try:
                for datagram in datagrams:
                    transport.sendto(datagram)
                    await asyncio.sleep(0)
            finally:
                transport.close()
    except TimeoutError as error:
        raise SendFailed(f"{host}:{port} cannot be reached within {within:g} s") from error
    except OSError as error:
        raise SendFailed(f"{host}:{port}: {error}") from error
