"""One gateway with one worker for all tests of the package; each test routes a host of its own."""

import contextlib
import itertools
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import Etcd, Gateway, read_response

MAX_BODY_BYTES = 64 << 20


class Site:
    """A host that the gateway leads to certain nodes."""

    def __init__(self, gateway: Gateway, host: str) -> None:
        self.gateway = gateway
        self.host = host

    def connect(self) -> socket.socket:
        """Open a client connection."""
        return socket.create_connection(("127.0.0.1", self.gateway.port), timeout=20)

    def head(self, method: str = "GET", path: str = "/", fields: str = "") -> bytes:
        """Compose a request head for this host."""
        return f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\n{fields}\r\n".encode()

    def ask(self, method: str = "GET", fields: str = "", body: bytes = b"") -> tuple[int, bytes]:
        """Ask over a new connection; returns status and body."""
        with self.connect() as sock:
            sock.sendall(self.head(method, fields=fields) + body)
            return read_response(sock)

    def whole(self, method: str = "GET", fields: str = "", body: bytes = b"") -> bytes:
        """Ask over a new connection, and return all bytes of the answer up to its end; a reset ends it too."""
        with self.connect() as sock:
            sock.sendall(self.head(method, fields=fields + "Connection: close\r\n") + body)
            return rest(sock)


def rest(sock: socket.socket) -> bytes:
    """Read to the end, or to a reset."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            data += piece
    return bytes(data)


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("store")) as member:
        yield member


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory, store: Etcd) -> Iterator[Gateway]:
    running = Gateway(
        tmp_path_factory.mktemp("gateway"),
        store.url,
        worker_processes=1,
        access_log_format="json",
        client_max_body_size=MAX_BODY_BYTES,
        client_body_timeout=2,
        send_timeout=2,
        client_body_temp_path="bodies",
    )
    running.start()
    yield running
    running.kill()


Sites = Callable[..., Site]


@pytest.fixture(scope="package")
def site(gateway: Gateway, store: Etcd) -> Sites:
    """Lead a new host to an upstream; ``route`` and ``service`` are more of their fields."""
    numbers = itertools.count()

    def make(
        nodes: object,
        route: dict[str, object] | None = None,
        service: dict[str, object] | None = None,
        **upstream: object,
    ) -> Site:
        number = next(numbers)
        host = f"s{number}.test"
        if service is not None:
            store.put(f"services/{number}", service)
        revision = store.put(
            f"routes/{number}",
            {
                "uri": "/*",
                "host": host,
                "upstream": {"nodes": nodes, **upstream},
                **({} if service is None else {"service_id": str(number)}),
                **(route or {}),
            },
        )
        assert gateway.control(f"/v1/sync/wait?revision={revision}&timeout=20")[0] == 200
        return Site(gateway, host)

    return make


def in_turn(*nodes: str) -> list[dict[str, object]]:
    """Write nodes so that the first is tried first, and so on."""
    written: list[dict[str, object]] = []
    for at, node in enumerate(nodes):
        host, _, port = node.rpartition(":")
        written.append({"host": host, "port": int(port), "weight": 1, "priority": -at})
    return written
