"""Clients that ask as fast as they can, many requests ahead, and count the answers by status."""

import socket
import threading
from collections import Counter

from tests.fakes.processes import PATIENCE, Gateway

AHEAD = 20


class Barrage:
    """Asks from ``with`` to its end, or until it has had ``most`` answers."""

    def __init__(self, gateway: Gateway, host: str, clients: int = 16, most: int = 1_000_000) -> None:
        self.statuses: Counter[int] = Counter()
        self._address = "127.0.0.1", gateway.port
        self._request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self._left = most
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> "Barrage":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._finish()

    def run(self) -> Counter[int]:
        """Ask until all is answered, and return how often there was each status."""
        self.__enter__()
        self._finish()
        return self.statuses

    def _finish(self) -> None:
        for thread in self._threads:
            thread.join(10 * PATIENCE)
            assert not thread.is_alive()

    def _turn(self) -> int:
        """Take some of the requests that are to be sent."""
        with self._lock:
            taken = min(AHEAD, self._left)
            self._left -= taken
        return 0 if self._stop.is_set() else taken

    def _ask(self) -> None:
        owed = self._turn()
        while owed:
            with socket.create_connection(self._address, timeout=2 * PATIENCE) as sock:
                data = b""
                while owed:
                    sock.sendall(self._request * owed)
                    answered, data = self._answers(sock, data, owed)
                    owed -= answered
                    if owed:  # closed: what was sent ahead and not answered is asked for again
                        break
                    owed = self._turn()

    def _answers(self, sock: socket.socket, data: bytes, count: int) -> tuple[int, bytes]:
        answered = 0
        while answered < count:
            head, found, rest = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) if found else 0
            if found and len(rest) >= length:
                answered += 1
                with self._lock:
                    self.statuses[int(head.split(b" ")[1])] += 1
                data = rest[length:]
                continue
            try:
                piece = sock.recv(65536)
            except ConnectionResetError:
                piece = b""
            if not piece:
                break
            data += piece
        return answered, data
