"""A real Redis server, alone, as a cluster, or with a sentinel."""

import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType

import pytest

from tests.fakes.processes import free_port, wait_until


class RedisServer:
    """Serves from ``with`` to its end on ``port``, in a directory of its own."""

    def __init__(self, directory: Path, *arguments: str, configuration: str = "") -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("there is no redis-server")
        self.port = free_port()
        self._directory = directory / f"redis-{self.port}"
        self._arguments = arguments
        self._configuration = configuration
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self._directory.mkdir(exist_ok=True)
        conf = self._directory / "redis.conf"
        conf.write_text(f"port {self.port}\nbind 127.0.0.1\n{self._configuration}\n")
        self._process = subprocess.Popen(
            ["redis-server", str(conf), *self._arguments],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, "redis-server answers")

    def kill(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def call(self, *words: str) -> str:
        """Carry out a command by redis-cli."""
        done = subprocess.run(
            ["redis-cli", "-p", str(self.port), *words], capture_output=True, text=True, timeout=20, check=True
        )
        return done.stdout.strip()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                sock.sendall(b"PING\r\n")
                return bool(sock.recv(100))
        except OSError:
            return False


PLAIN = ("--save", "", "--appendonly", "no")


def plain(directory: Path, *arguments: str) -> RedisServer:
    """Make a server that keeps nothing on disk."""
    return RedisServer(directory, *PLAIN, *arguments)


def cluster(directory: Path) -> RedisServer:
    """Make a cluster of one; ``join`` it when it runs."""
    return RedisServer(directory, *PLAIN, "--cluster-enabled", "yes", "--cluster-port", str(free_port()))


def join(server: RedisServer) -> None:
    """Give a cluster of one all slots."""
    server.call("cluster", "addslotsrange", "0", "16383")
    wait_until(lambda: "cluster_state:ok" in server.call("cluster", "info"), "the cluster is whole")


def sentinel(directory: Path, master: RedisServer) -> RedisServer:
    """Make a sentinel that watches over a master of the name ``first``."""
    return RedisServer(directory, "--sentinel", configuration=f"sentinel monitor first 127.0.0.1 {master.port} 1")
