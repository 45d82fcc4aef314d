"""Tells a TCP server of requests: a connection for each batch, which is a JSON array.

With a ``batch_max_size`` of 1 it is the object itself. There is no newline behind it.

    host, port
    timeout       milliseconds for all of it
    tls           whether with TLS; the server's certificate is not verified
    tls_options   the name that TLS asks for, instead of the host

For what all loggers have in common see ``logger``.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from worker.plugins.base import Scope
from worker.plugins.logger import ContentConfig, Logger, check_port, joined
from worker.plugins.stream_sender import send_stream, unverified

Name = Annotated[str, msgspec.Meta(min_length=1)]


class TcpLoggerConfig(ContentConfig, kw_only=True):
    """Whom to tell."""

    host: Name
    port: int
    timeout: Annotated[int, msgspec.Meta(ge=1)] = 1000
    tls: bool = False
    tls_options: str | None = None


class TcpLogger(Logger[TcpLoggerConfig]):
    """Sends batches."""

    name = "tcp-logger"
    priority = 405
    Config = TcpLoggerConfig

    def __init__(self, config: TcpLoggerConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._context = unverified() if config.tls else None

    @classmethod
    def check(cls, config: Any) -> None:
        """Check the port."""
        super().check(config)
        check_port(config.port)

    async def send(self, batch: Sequence[bytes]) -> None:
        """Send a batch."""
        config = self.config
        pieces = [joined(batch, config.batch_max_size == 1)]
        name = config.tls_options or config.host
        await send_stream(config.host, config.port, pieces, config.timeout / 1000, self._context, name)

    def server(self) -> str:
        """Return the host and port."""
        return f"{self.config.host}:{self.config.port}"
