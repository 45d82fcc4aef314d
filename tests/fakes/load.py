"""A load that forgives nothing."""

import socket
import threading

from tests.fakes.processes import Gateway


class Load:
    """Clients that ask without pause over connections that stay open, and note what goes wrong."""

    def __init__(self, gateway: Gateway, clients: int = 4) -> None:
        self.failures: list[str] = []
        self.answered = 0
        self._gateway = gateway
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        """Ask over one connection until the gateway says that it closes it, then over another."""
        while not self._stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._gateway.port), timeout=10) as sock:
                    while not self._stop.is_set():
                        sock.sendall(b"GET /load HTTP/1.1\r\nHost: a\r\n\r\n")
                        head = self._read(sock)
                        if not head.startswith(b"HTTP/1.1 200"):
                            self.failures.append(repr(head))
                            break
                        self.answered += 1
                        if b"\r\nConnection: close\r\n" in head:
                            break
            except OSError as error:
                self.failures.append(repr(error))

    def _read(self, sock: socket.socket) -> bytes:
        data = b""
        while not data.endswith(b"upstream"):
            piece = sock.recv(65536)
            if not piece:
                break
            data += piece
        return data
