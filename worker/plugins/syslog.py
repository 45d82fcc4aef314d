"""Tells a syslog server of requests, each in a line of RFC 5424.

    <46>1 <time> <host> apisix <pid> - - <entry, as JSON>

    host, port
    sock_type     tcp: a connection for each batch; udp: a datagram for each line
    timeout       milliseconds for a batch
    tls           with tcp: whether with TLS; the server's certificate is not verified
    flush_limit   bytes that are written at a time
    drop_limit    bytes above which a line is dropped
    pool_size     taken, and without effect: connections are not kept

For what all loggers have in common see ``logger``.
"""

import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from worker.plugins.base import Scope
from worker.plugins.batch import AtLeastOne, SendFailed
from worker.plugins.log_entry import HOSTNAME
from worker.plugins.logger import ContentConfig, Logger, check_port
from worker.plugins.stream_sender import MAX_DATAGRAM, send_datagrams, send_stream, unverified

if TYPE_CHECKING:
    from worker.exchange import Exchange

PRIORITY = 46  # facility syslog, severity informational


class SyslogConfig(ContentConfig, kw_only=True):
    """Whom to tell."""

    host: Annotated[str, msgspec.Meta(min_length=1)]
    port: int
    timeout: AtLeastOne = 3000
    sock_type: Literal["tcp", "udp"] = "tcp"
    tls: bool = False
    flush_limit: AtLeastOne = 4096
    drop_limit: AtLeastOne = 1_048_576
    pool_size: Annotated[int, msgspec.Meta(ge=5)] = 5


class Syslog(Logger[SyslogConfig]):
    """Sends lines."""

    name = "syslog"
    priority = 401
    Config = SyslogConfig

    def __init__(self, config: SyslogConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._context = unverified() if config.tls else None
        self._behind_time = f" {HOSTNAME} apisix {os.getpid()} - - ".encode()

    @classmethod
    def check(cls, config: Any) -> None:
        """Check the port."""
        super().check(config)
        check_port(config.port)

    def log(self, exchange: "Exchange") -> None:
        """Put a line into the batch."""
        line = b"<%d>1 %b%b%b\n" % (PRIORITY, timestamp(time.time()), self._behind_time, self.entry(exchange))
        self._batches.add(line)

    async def send(self, batch: Sequence[bytes]) -> None:
        """Send a batch."""
        config = self.config
        within = config.timeout / 1000
        largest = min(config.drop_limit, MAX_DATAGRAM) if config.sock_type == "udp" else config.drop_limit
        lines = [line for line in batch if len(line) <= largest]
        if not lines:
            raise SendFailed(f"lines of more than {largest} bytes")
        if config.sock_type == "udp":
            await send_datagrams(config.host, config.port, lines, within)
        else:
            pieces = portions(lines, config.flush_limit)
            await send_stream(config.host, config.port, pieces, within, self._context, config.host)

    def server(self) -> str:
        """Return the host and port."""
        return f"{self.config.host}:{self.config.port}"


def portions(lines: Sequence[bytes], size: int) -> Iterator[bytes]:
    """Join lines, to about so many bytes."""
    portion: list[bytes] = []
    length = 0
    for line in lines:
        portion.append(line)
        length += len(line)
        if length >= size:
            yield b"".join(portion)
            portion, length = [], 0
    if portion:
        yield b"".join(portion)


def timestamp(seconds: float) -> bytes:
    """Write a time as RFC 3339, in UTC, with milliseconds."""
    whole = int(seconds)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{int((seconds - whole) * 1000):03d}Z".encode()
