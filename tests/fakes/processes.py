"""Real etcd and a real gateway as child processes, on free ports, below a temporary directory."""

import base64
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from config_sync.cache import ConfigStore
from config_sync.snapshot import SnapshotError, load_snapshot, read_snapshot
from worker.supervisor.template import NAME as TEMPLATE

ROOT = Path(__file__).parents[2]
_CHANCE = random.SystemRandom()  # nobody seeds it: two processes must not choose alike
PATIENCE = 20.0  # seconds for anything that must come true


def wait_until(holds: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait for a condition."""
    until = time.monotonic() + patience
    while not holds():
        if time.monotonic() > until:
            raise AssertionError(f"not within {patience} s: {what}")
        time.sleep(0.01)


def free_port() -> int:
    """Find a port that nobody listens on, and that the kernel gives to no outgoing connection either."""
    while True:
        port = _CHANCE.randrange(10_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def has_ipv6() -> bool:
    """Tell whether there is an IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


class Etcd:
    """A single member; as a context it runs, and what it has written (128 MB when it is empty) goes with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._client_port = free_port()
        self._peer_port = free_port()
        self.url = f"http://127.0.0.1:{self._client_port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._directory / "etcd", ignore_errors=True)

    def start(self) -> None:
        """Start it, with the data it had, and wait until it answers."""
        peer = f"http://127.0.0.1:{self._peer_port}"
        self._process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "etcd"),
                *("--data-dir", str(self._directory / "etcd"), "--log-level", "error", "--unsafe-no-fsync"),
                *("--heartbeat-interval", "10", "--election-timeout", "100"),
                *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"default={peer}"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, "etcd answers")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            self.call("kv/range", {"key": "AA=="})
            return True
        return False

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Stop it with a signal; nothing happens when it does not run."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Call the JSON gateway."""
        request = urllib.request.Request(f"{self.url}/v3/{path}", json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=5) as answer:
            decoded: dict[str, Any] = json.load(answer)
            return decoded

    def put(self, key: str, value: object) -> int:
        """Write a key below /apisix, as JSON unless it is bytes; returns the revision."""
        raw = value if isinstance(value, bytes) else json.dumps(value).encode()
        return int(
            self.call("kv/put", {"key": _key(key), "value": base64.b64encode(raw).decode()})["header"]["revision"]
        )

    def delete(self, key: str) -> None:
        """Delete a key below /apisix."""
        self.call("kv/deleterange", {"key": _key(key)})

    def delete_everything(self) -> int:
        """Delete all keys below /apisix/, in one revision, which is returned."""
        answer = self.call("kv/deleterange", {"key": _key(""), "range_end": base64.b64encode(b"/apisix0").decode()})
        return int(answer["header"]["revision"])

    def wipe(self) -> None:
        """Replace it by a new one, which is empty, at the same address."""
        self.kill()
        shutil.rmtree(self._directory / "etcd")
        self.start()

    def compact(self, revision: int) -> None:
        """Forget history before a revision."""
        self.call("kv/compaction", {"revision": str(revision), "physical": True})


def _key(key: str) -> str:
    return base64.b64encode(f"/apisix/{key}".encode()).decode()


class Gateway:
    """A master with its workers."""

    def __init__(self, directory: Path, etcd_url: str, **settings: object) -> None:
        self.directory = directory
        self.port = free_port()
        self.control_port = free_port()
        self.conf = directory / "config.yaml"
        self.settings: dict[str, object] = {
            "worker_processes": 2,
            "listen": [f"127.0.0.1:{self.port}"],
            "control": {"listen": f"127.0.0.1:{self.control_port}"},
            "plugin_attr": {"prometheus": {"enable_export_server": False}},
            "runtime_dir": str(directory / "run"),
            "error_log": "error.log",
            "etcd": {"host": [etcd_url], "resync_delay": 0.2},
            "reload": {"grace": 0.1},
            "keepalive_min": 0.2,
            "close_spread": 0.3,
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def write_conf(self, **changes: object) -> None:
        """Write the settings file, with changes to what it was."""
        self.settings.update(changes)
        self.conf.write_text(json.dumps(self.settings))

    def start(self) -> None:
        """Start the master and wait until all workers are ready."""
        self.launch()
        self.await_ready()

    def await_ready(self) -> None:
        """Wait until all workers are ready."""
        wait_until(lambda: "ready" in [line.rpartition(": ")[2] for line in self.log().splitlines()], "workers ready")

    def launch(self) -> None:
        """Start the master."""
        self.launch_from(ROOT)

    def launch_from(self, tree: Path, before: Sequence[str] = (), pass_fds: Sequence[int] = ()) -> None:
        """Start the master of a source tree, by a command that executes it when ``before`` is given."""
        self.write_conf()
        output = (self.directory / "output").open("ab")
        with output:
            self.process = subprocess.Popen(
                [*before, sys.executable, "master.py", "-c", str(self.conf)],
                cwd=tree,
                stdout=output,
                stderr=output,
                pass_fds=pass_fds,
                env=_environment(),
            )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the master and wait for its end; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.process = None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Signal the master."""
        assert self.process is not None
        self.process.send_signal(number)

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the command line tool on this gateway's settings."""
        return subprocess.run(
            [sys.executable, "master.py", "-c", str(self.conf), *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE * 2,
            check=False,
        )

    def log(self) -> str:
        """Return the error log."""
        path = self.directory / "run" / "error.log"
        return path.read_text() if path.exists() else ""

    def workers(self) -> set[int]:
        """Return the pids of the living workers."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {int(pid) for pid in children if _state(int(pid)) not in ("Z", "") and not is_template(int(pid))}

    def get(self, path: str, host: str = "a.com") -> tuple[int, bytes]:
        """Ask over a new connection; returns status and body."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return read_response(sock)

    def control(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Ask the control interface over a new connection; returns status and what was decoded of the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=2 * PATIENCE)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.load(answer)
        finally:
            connection.close()

    def sync(self) -> dict[str, Any]:
        """Return what all workers have applied."""
        decoded: dict[str, Any] = self.control("/v1/sync")[1]
        return decoded

    def applied(self, revision: int) -> None:
        """Wait until all workers have applied a revision."""
        status, answer = self.control(f"/v1/sync/wait?revision={revision}&timeout={PATIENCE:g}")
        assert status == 200, answer

    def saved(self) -> None:
        """Wait until what all workers serve is on disk."""
        path = self.directory / "run" / "config.snapshot"
        wait_until(lambda: _saved_revision(path) == self.sync()["workers"][0]["changed"], "the snapshot is on disk")

    def connection_to(self, pid: int) -> socket.socket:
        """Open a connection that a certain worker has accepted."""
        for _ in range(500):
            sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
            if self._owner_of(sock) == pid:
                return sock
            sock.close()
        raise AssertionError(f"worker {pid} accepts nobody")

    def _owner_of(self, sock: socket.socket) -> int | None:
        local, remote = sock.getsockname()[1], self.port
        request(sock, "/whose")
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if int(words[1][9:], 16) == remote and int(words[2][9:], 16) == local:
                return self._holder_of(f"socket:[{words[9]}]")
        return None

    def _holder_of(self, name: str) -> int | None:
        for pid in self.workers():
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(fd) == name:
                        return pid
        return None

    def kill(self) -> None:
        """End it whatever it does."""
        if self.process is not None:
            children = self.workers()
            self.process.kill()
            self.process.wait()
            self.process = None
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def etcd_and_gateway(directory: Path, **settings: object) -> Iterator[tuple[Etcd, Gateway]]:
    """Run both, for a module of tests; ``/whose`` leads nowhere, see ``Gateway.connection_to``."""
    with Etcd(directory) as etcd:
        gateway = Gateway(directory, etcd.url, **settings)
        try:
            etcd.put("routes/whose", {"uri": "/whose", "upstream": {"nodes": {}}})
            gateway.start()
            yield etcd, gateway
        finally:
            gateway.kill()


def _saved_revision(path: Path) -> int:
    try:
        data = read_snapshot(path, "/apisix")
    except (FileNotFoundError, SnapshotError):
        return 0
    store = ConfigStore()
    for _ in load_snapshot(data, store):
        pass
    return store.revision


def is_template(pid: int) -> bool:
    """Tell whether a process is the one that workers are forked from."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == f"{TEMPLATE}\n"
    except OSError:
        return False


def _environment() -> dict[str, str]:
    """Return ours, but let bytecode be written: without it each worker would compile all code again."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def request(sock: socket.socket, path: str, host: str = "a.com") -> tuple[int, bytes]:
    """Ask over a connection that stays open."""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return read_response(sock)


def read_response(sock: socket.socket) -> tuple[int, bytes]:
    """Read one answer that has a Content-Length, or is ended by the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return 0, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), None)
    while length is None or len(body) < length:
        piece = sock.recv(65536)
        if not piece:
            break
        body += piece
    return int(head.split(b" ")[1]), body
