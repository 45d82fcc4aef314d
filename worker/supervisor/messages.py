"""What master and worker say to each other over their socketpair: one JSON packet each, descriptors beside it.

After a reload a worker may be of newer code than its master. So a packet that is not understood is skipped, and fields
that are not known are ignored.
"""

import array
import logging
import os
import socket
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

log = logging.getLogger("propylon.master")

MAX_PACKET_BYTES = 65_536
MAX_DESCRIPTORS = 253  # the kernel's SCM_MAX_FD

Reason = Literal["reload", "stop"]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From a worker: it is complete and accepts; also the answer to ``Resume``."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """From a worker that ends because it cannot work, and why."""

    reason: str


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """To a worker: accept nobody for the time being; all else goes on."""


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """To a worker that is paused or drains: be as before, and answer with ``Ready``."""


class Adopt(msgspec.Struct, frozen=True, tag="adopt"):
    """To a worker: accept from the sockets of another slot, too; they come with it, one for each address."""

    slot: int
    addresses: tuple[str, ...]


class Release(msgspec.Struct, frozen=True, tag="release"):
    """To a worker: take those who wait in the queues of a slot, and close its copies of the sockets.

    The slot is its own or one it has adopted; with sockets, as of ``socket_number``, only these.
    """

    slot: int
    sockets: tuple[int, ...] = ()


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """To a worker: accept nobody any more, finish what is under way within so many seconds, and exit."""

    reason: Reason
    seconds: float


class Deadline(msgspec.Struct, frozen=True, tag="deadline"):
    """To a worker that drains: be done within so many seconds."""

    seconds: float


ToWorker = Pause | Resume | Adopt | Release | Drain | Deadline
ToMaster = Ready | Failed


def listening_name(sock: socket.socket) -> str:
    """Return the name by which master and workers speak of a listening socket, and those of other slots with it."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def socket_number(sock: socket.socket) -> int:
    """Return the number by which master and workers speak of one socket: that of its inode, equal for all copies."""
    return os.fstat(sock.fileno()).st_ino


_encode = msgspec.json.Encoder().encode
_TO_WORKER = msgspec.json.Decoder(ToWorker)
_TO_MASTER = msgspec.json.Decoder(ToMaster)


class Packet(NamedTuple):
    """What was received; no message when it was not understood. ``descriptors`` are the receiver's to close."""

    message: ToWorker | ToMaster | None
    descriptors: list[int]


def send(control: socket.socket, message: ToWorker | ToMaster, sockets: Sequence[socket.socket] = ()) -> bool:
    """Send a message, without waiting; False when the other end is gone, or has not read for long."""
    fds = array.array("i", [sock.fileno() for sock in sockets])
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
    try:
        control.sendmsg([_encode(message)], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return False
    return True


def receive_from_master(control: socket.socket) -> Packet | None:
    """Read what the master says; None at its end. Raises BlockingIOError when it says nothing."""
    return _receive(control, _TO_WORKER)


def receive_from_worker(control: socket.socket) -> Packet | None:
    """Read what a worker says; None at its end. Raises BlockingIOError when it says nothing."""
    return _receive(control, _TO_MASTER)


def _receive(
    control: socket.socket, decoder: "msgspec.json.Decoder[ToWorker] | msgspec.json.Decoder[ToMaster]"
) -> Packet | None:
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
    try:
        data, ancillary, _, _ = control.recvmsg(MAX_PACKET_BYTES, room, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        raise
    except OSError:
        return None
    if not data:
        return None
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    try:
        return Packet(decoder.decode(data), list(fds))
    except msgspec.DecodeError as error:
        log.warning("a packet on the control socket is not understood, and skipped: %s", error)
        for fd in fds:
            os.close(fd)
        return Packet(None, [])
