"""Exchanges as a worker makes them, without its sockets."""

from typing import Any, cast

from config_sync.settings import Settings
from worker.exchange import Exchange
from worker.http.framing import RequestFields
from worker.http.target import normalised_path
from worker.messages import Framing, Request


class Context:
    """What variables look at of a worker's context."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def time(self) -> float:
        """Return 1.5 seconds after the beginning."""
        return 101.5


class Downstream:
    """What variables look at of a client's connection."""

    scheme = "http"
    number = 7
    requests = 2
    local_address, local_port = "10.0.0.1", 9080
    peer_address, peer_port = "127.0.0.1", 40000
    remote_address, remote_port = "192.0.2.7", 0
    keeps_forwarded_for = True

    def __init__(self, settings: Settings) -> None:
        self.context = Context(settings)


def exchange_of(
    target: str = "/",
    *lines: str,
    method: str = "GET",
    host: str = "a.com",
    body: bytes | None = None,
    settings: Settings | None = None,
) -> Exchange:
    """Make an exchange of a request with these field lines; ``body`` is one that has been buffered."""
    block = "\r\n".join(["", f"Host: {host}", *lines, "", ""]).encode("utf-8", "surrogateescape")
    fields = RequestFields(block)
    raw = target.encode("utf-8", "surrogateescape")
    length = fields.content_length or 0
    framing = Framing.CHUNKED if fields.chunked else Framing.LENGTH if length else Framing.NONE
    upstream_fields = b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: a.com\r\nX-Forwarded-Port: 9080\r\n\r\n"
    exchange = Exchange(cast("Any", Downstream(settings or Settings())), 100.0)
    exchange.request = Request(
        method.encode(),
        raw,
        normalised_path(raw),
        fields.host,
        fields.host_name,
        block,
        True,
        framing,
        length,
        upstream_fields,
    )
    exchange.buffered_body = body
    return exchange


def with_body(content_type: str, body: bytes, settings: Settings | None = None) -> Exchange:
    """Make an exchange whose body has been buffered."""
    lines = (f"Content-Type: {content_type}", f"Content-Length: {len(body)}")
    return exchange_of("/", *lines, method="POST", body=body, settings=settings)
