"""What the kernel knows of a connection and its transport does not: what waits in its queues, and since when."""

import asyncio
import fcntl
import os
import socket
import struct
import termios
from array import array

# tcp_info.tcpi_last_ack_recv of linux/tcp.h: milliseconds since the peer last acknowledged anything.
_LAST_ACK = struct.Struct("56xI")
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def in_send_queue(transport: asyncio.Transport) -> int:
    """Count the bytes that the kernel has of a connection and its peer has not acknowledged."""
    return _asked(transport, termios.TIOCOUTQ)


def in_receive_queue(transport: asyncio.Transport) -> int:
    """Count the bytes that have come and nobody has read yet."""
    return _asked(transport, termios.FIONREAD)


def since_last_ack(transport: asyncio.Transport) -> float:
    """Return the seconds since the peer last acknowledged anything; 0 when the connection is being closed."""
    if transport.is_closing():
        return 0.0
    info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK.size)
    (milliseconds,) = _LAST_ACK.unpack(info)
    return float(milliseconds) / 1000.0


def read_rest(transport: asyncio.Transport, limit: int) -> bytes:
    """Take what has come and was not read, at most ``limit`` bytes, of a connection that is lost."""
    fd = transport.get_extra_info("socket").fileno()
    data = b""
    try:
        while len(data) < limit and (piece := os.read(fd, limit - len(data))):
            data += piece
    except OSError:
        pass
    return data


def reset_on_close(transport: asyncio.Transport) -> None:
    """Let the connection end with a reset, so that it cannot be taken for the end of the answer."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


def _asked(transport: asyncio.Transport, request: int) -> int:
    if transport.is_closing():
        return 0  # it may have no descriptor any more
    count = array("i", (0,))
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), request, count)
    return count[0]
