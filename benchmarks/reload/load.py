"""The load, a process: ``python -m benchmarks.reload.load``, and its handle ``Load``.

It is told what to do by lines of JSON on its input, and answers each with a line when it is done.
"""

import asyncio
import math
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import uvloop

from benchmarks.reload.clients import Gate, Group, Requester
from benchmarks.reload.tally import Summary, Tally

ROOT = Path(__file__).resolve().parents[2]


class Start(msgspec.Struct, tag="start"):
    """Start clients."""

    group: Group


class Stop(msgspec.Struct, tag="stop"):
    """Let the clients of a group finish what they do."""

    name: str


class Abandon(msgspec.Struct, tag="abandon"):
    """Let the clients of a group leave at once, whatever they do."""

    name: str


class Expect(msgspec.Struct, tag="expect"):
    """Take it for a failure, from now on or not any more, when the clients of a group are refused."""

    name: str
    answers: bool


class Mark(msgspec.Struct, tag="mark"):
    """Say what was seen since the last mark, and begin to count anew."""


Order = Start | Stop | Abandon | Expect | Mark
_orders: msgspec.json.Decoder[Order] = msgspec.json.Decoder(Order)
_summaries = msgspec.json.Decoder(Summary)


class Running:
    """The clients in the process."""

    def __init__(self) -> None:
        self._tally = Tally(time.monotonic())
        self._clients: dict[str, list[Requester]] = {}
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._gates: dict[str, Gate] = {}

    async def obey(self, order: Order) -> bytes:
        """Do what was ordered, and return the answer."""
        if isinstance(order, Start):
            group = order.group
            gate = self._gates[group.name] = Gate()
            clients = self._clients[group.name] = group.clients(self._tally, gate)
            self._tasks[group.name] = [asyncio.create_task(client.run()) for client in clients]
        elif isinstance(order, Stop):
            self._gates.pop(order.name).stopping.set()
            await asyncio.gather(*self._tasks.pop(order.name))
            del self._clients[order.name]
        elif isinstance(order, Abandon):
            del self._gates[order.name]
            tasks = self._tasks.pop(order.name)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for client in self._clients.pop(order.name):
                client.hang_up()
        elif isinstance(order, Expect):
            self._gates[order.name].expects_since = time.monotonic() if order.answers else math.inf
        else:
            return msgspec.json.encode(self._mark())
        return b"{}"

    def _mark(self) -> Summary:
        now = time.monotonic()
        ended, self._tally = self._tally, Tally(now)
        for clients in self._clients.values():
            for client in clients:
                client.tally = self._tally
        return ended.summary(now)


class Load:
    """The process, seen from outside; a context manager."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it, without clients."""
        command = [sys.executable, "-m", "benchmarks.reload.load"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate()

    def start(self, group: Group) -> None:
        """Start clients."""
        self._order(Start(group))

    def stop(self, name: str) -> None:
        """Let the clients of a group finish, and wait for that."""
        self._order(Stop(name))

    def abandon(self, name: str) -> None:
        """Let the clients of a group leave at once."""
        self._order(Abandon(name))

    def expect(self, name: str, answers: bool) -> None:
        """Say whether it is a failure when the clients of a group are refused; at first it is."""
        self._order(Expect(name, answers))

    def mark(self) -> Summary:
        """Return what was seen since the last mark."""
        return _summaries.decode(self._order(Mark()))

    def _order(self, order: Order) -> bytes:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the load has died with {self._process.wait()}")
        return answer


async def _serve() -> None:
    running = Running()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        sys.stdout.buffer.write(await running.obey(_orders.decode(line)) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_serve())
