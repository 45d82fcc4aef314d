"""Servers that take what loggers send, in the loop of a kit."""

import asyncio
import json
import ssl
from collections.abc import Callable
from typing import Any

from worker.plugins.testing import PluginKit

PATIENCE = 10.0


class TcpReceiver:
    """Takes connections, and keeps what each has sent until its end."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.received: list[bytes] = []
        self.port = 0
        self._context = context
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received.append(await reader.read())
        writer.close()


class UdpReceiver(asyncio.DatagramProtocol):
    """Takes datagrams."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.port = self._transport.get_extra_info("sockname")[1]

    async def stop(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def datagram_received(self, data: bytes, _: Any) -> None:
        self.received.append(data)


async def until(holds: Callable[[], object]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - tests wait for anything
            await asyncio.sleep(0.005)


def flush(kit: PluginKit) -> None:
    """Let everything be sent."""
    kit.run(kit.context.plugins.services.flush(PATIENCE))


def entries(batches: list[bytes]) -> list[Any]:
    """Return what arrays of JSON hold."""
    return [entry for batch in batches for entry in json.loads(batch)]
