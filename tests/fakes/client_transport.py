"""The transport of a client, as far as a connection uses it, for tests without sockets."""

import asyncio

from worker.http.http1_server import Http1Server

CLIENT, GATEWAY = ("127.0.0.1", 40000), ("127.0.0.1", 9080)


class ClientTransport:
    """Notes what a connection does with it; when ``full``, nobody takes what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.full = False
        self.reads = True
        self.closed = False
        self.connection: Http1Server
        self.runner: asyncio.Runner

    def get_extra_info(self, name: str) -> object:
        return CLIENT if name == "peername" else GATEWAY

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return len(self.written) if self.full else 0

    def write(self, data: bytes) -> None:
        self.written += data
        if self.full:
            self.connection.pause_writing()

    def drained(self) -> None:
        self.full = False
        self.connection.resume_writing()

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def can_write_eof(self) -> bool:
        return False

    def is_closing(self) -> bool:
        return self.closed

    def set_protocol(self, protocol: object) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    @property
    def answers(self) -> int:
        return self.written.count(b"HTTP/1.1 404 ")
