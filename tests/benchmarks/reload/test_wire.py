"""Every way in which a server can fail has its own name."""

import asyncio
import socket
import struct

import pytest

from benchmarks.reload.tally import Fault
from benchmarks.reload.wire import Connection, Failed

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def answered_by(script: bytes, with_reset: bool = False) -> tuple[bytes, bool]:
    """Ask a server that sends the script and ends the connection; returns the body, and whether it said it would."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(script)
        if with_reset:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        connection = await Connection.open(server.sockets[0].getsockname()[1])
        try:
            await connection.send(b"GET / HTTP/1.1\r\n\r\n")
            body = bytearray()
            answer = await connection.head()
            await connection.body(answer, body.extend)
            await connection.ended()
            return bytes(body), answer.closes
        finally:
            connection.close()


@pytest.mark.parametrize(
    ("script", "body", "closes"),
    [
        (HEAD + b"\r\nok", b"ok", False),
        (HEAD + b"Connection: Close\r\n\r\nok", b"ok", True),
        (CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok", False),
    ],
)
def test_a_good_answer(script: bytes, body: bytes, closes: bool) -> None:
    assert asyncio.run(answered_by(script)) == (body, closes)


@pytest.mark.parametrize(
    ("script", "fault", "where"),
    [
        (b"", Fault.EOF, "head"),
        (HEAD, Fault.TRUNCATED, "head"),
        (HEAD + b"\r\no", Fault.TRUNCATED, "body"),
        (CHUNKED + b"2\r\nok\r\n", Fault.TRUNCATED, "body"),
        (HEAD + b"\r\nokay", Fault.MALFORMED, "body"),
        (CHUNKED + b"2\r\nokay\r\n", Fault.MALFORMED, "body"),
        (b"HTTP/1.1 200 OK\r\n\r\nok", Fault.MALFORMED, "head"),
        (b"HTTP/1.1 abc\r\n\r\n", Fault.MALFORMED, "head"),
    ],
)
def test_a_bad_answer(script: bytes, fault: Fault, where: str) -> None:
    with pytest.raises(Failed) as failed:
        asyncio.run(answered_by(script))
    assert (failed.value.fault, failed.value.where) == (fault, where)


def test_a_reset() -> None:
    with pytest.raises(Failed) as failed:
        asyncio.run(answered_by(b"", with_reset=True))
    assert (failed.value.fault, failed.value.where) == (Fault.RESET, "head")


def test_a_port_that_nobody_listens_on() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(Failed) as failed:
            asyncio.run(Connection.open(bound.getsockname()[1]))
    assert (failed.value.fault, failed.value.where) == (Fault.REFUSED, "connect")
