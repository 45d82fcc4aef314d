"""MasterLink: a worker's end of the socketpair to its master."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Protocol

from worker.supervisor.messages import (
    Adopt,
    Deadline,
    Drain,
    Pause,
    Reason,
    Release,
    Resume,
    ToMaster,
    ToWorker,
    receive_from_master,
    send,
)

log = logging.getLogger("propylon.worker")


class Told(Protocol):
    """Who does what the master says."""

    def pause(self) -> None:
        """Accept nobody for the time being."""

    def resume(self) -> None:
        """Be as before, and say so."""

    def adopt(self, slot: int, sockets: list[socket.socket]) -> None:
        """Accept from the sockets of another slot, too."""

    def release(self, slot: int, numbers: Sequence[int]) -> None:
        """Give the sockets of a slot up, or those with these numbers."""

    def drain(self, reason: Reason, seconds: float) -> None:
        """Finish what is under way, and end."""

    def hasten(self, seconds: float) -> None:
        """Be done with a drain within so many seconds."""

    def orphaned(self) -> None:
        """The master is gone."""


class MasterLink:
    """Reads what the master says, and tells it what happens."""

    def __init__(self, control: socket.socket, loop: asyncio.AbstractEventLoop, told: Told) -> None:
        self._control = control
        self._loop = loop
        self._told = told

    def open(self) -> None:
        """Listen to the master from now on."""
        self._control.setblocking(False)
        self._loop.add_reader(self._control.fileno(), self._readable)

    def send(self, message: ToMaster) -> None:
        """Tell the master; nothing happens when it is gone."""
        send(self._control, message)

    def _readable(self) -> None:
        try:
            packet = receive_from_master(self._control)
        except BlockingIOError:
            return
        if packet is None:
            self._loop.remove_reader(self._control.fileno())
            self._told.orphaned()
        elif packet.message is not None:
            self._do(packet.message, [socket.socket(fileno=fd) for fd in packet.descriptors])

    def _do(self, message: ToWorker | ToMaster, sockets: list[socket.socket]) -> None:
        if isinstance(message, Adopt):
            self._told.adopt(message.slot, sockets)
            return
        for sock in sockets:
            sock.close()
        if isinstance(message, Pause):
            self._told.pause()
        elif isinstance(message, Resume):
            self._told.resume()
        elif isinstance(message, Release):
            self._told.release(message.slot, message.sockets)
        elif isinstance(message, Drain):
            self._told.drain(message.reason, message.seconds)
        elif isinstance(message, Deadline):
            self._told.hasten(message.seconds)
