"""Tells a UDP server of requests: a datagram for each batch, which is a JSON array.

With a ``batch_max_size`` of 1 it is the object itself. A batch that is too large for a datagram is divided.

    host, port
    timeout      seconds in which the host must be found

For what all loggers have in common see ``logger``.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import msgspec

from worker.plugins.batch import SendFailed
from worker.plugins.logger import ContentConfig, Logger, check_port, joined
from worker.plugins.stream_sender import MAX_DATAGRAM, send_datagrams


class UdpLoggerConfig(ContentConfig, kw_only=True):
    """Whom to tell."""

    host: Annotated[str, msgspec.Meta(min_length=1)]
    port: int
    timeout: Annotated[float, msgspec.Meta(gt=0)] = 3


class UdpLogger(Logger[UdpLoggerConfig]):
    """Sends batches."""

    name = "udp-logger"
    priority = 400
    Config = UdpLoggerConfig

    @classmethod
    def check(cls, config: Any) -> None:
        """Check the port."""
        super().check(config)
        check_port(config.port)

    async def send(self, batch: Sequence[bytes]) -> None:
        """Send a batch."""
        config = self.config
        datagrams = list(divided(batch, config.batch_max_size == 1))
        if not datagrams:
            raise SendFailed("an entry is too large for a datagram")
        await send_datagrams(config.host, config.port, datagrams, config.timeout)

    def server(self) -> str:
        """Return the host and port."""
        return f"{self.config.host}:{self.config.port}"


def divided(batch: Sequence[bytes], is_single: bool) -> Iterator[bytes]:
    """Return datagrams with all entries of a batch, but those that fit into none."""
    portion: list[bytes] = []
    size = 1
    for entry in batch:
        if len(entry) + 2 > MAX_DATAGRAM:
            continue
        if portion and size + len(entry) + 1 > MAX_DATAGRAM:
            yield joined(portion, is_single)
            portion, size = [], 1
        portion.append(entry)
        size += len(entry) + 1
    if portion:
        yield joined(portion, is_single)
