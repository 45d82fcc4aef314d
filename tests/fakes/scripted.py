"""An upstream that does on each connection what a script says, byte by byte."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Talk:
    """One connection, as a script sees it; it is closed when the script returns."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = bytearray()

    def head(self) -> bytes:
        """Read a request head; empty when the gateway closes instead."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return b""
        return self._take(self._buffer.index(b"\r\n\r\n") + 4)

    def exactly(self, count: int) -> bytes:
        """Read so many bytes, or fewer when the gateway closes."""
        while len(self._buffer) < count and self._more():
            pass
        return self._take(count)

    def some(self) -> bytes:
        """Read what there is; empty when the gateway closes."""
        if not self._buffer:
            self._more()
        return self._take(len(self._buffer))

    def until(self, end: bytes) -> bytes:
        """Read up to and with a mark, or to the end."""
        while end not in self._buffer and self._more():
            pass
        at = self._buffer.find(end)
        return self._take(at + len(end) if at >= 0 else len(self._buffer))

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def half_close(self) -> None:
        """Send nothing more."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset."""
        reset(self.sock)

    def wait_closed(self) -> None:
        """Read until the gateway closes."""
        with contextlib.suppress(OSError):
            while self.sock.recv(65536):
                pass

    def _take(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _more(self) -> bool:
        data = self.sock.recv(65536)
        self._buffer += data
        return bool(data)


def reset(sock: socket.socket) -> None:
    """Close a connection with a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


Script = Callable[[Talk], None]


def answering(*answers: bytes) -> Script:
    """Return a script that gives these answers to as many requests, then closes."""

    def script(talk: Talk) -> None:
        for answer in answers:
            if not talk.head():
                return
            talk.send(answer)

    return script


def refusing_to_close(*answers: bytes) -> Script:
    """Return a script that gives these answers and then waits until the gateway closes."""

    def script(talk: Talk) -> None:
        answering(*answers)(talk)
        talk.wait_closed()

    return script


class ScriptedUpstream:
    """Plays ``script`` on each connection from ``with`` to its end."""

    def __init__(
        self, script: Script = lambda talk: None, receive_buffer: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        """Listen; with a small ``receive_buffer`` little is on its way to a script that does not read."""
        self.script = script
        self._tls = tls
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        if receive_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.port: int = self._listener.getsockname()[1]
        self.node = f"127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = [threading.Thread(target=self._accept)]

    def __enter__(self) -> "ScriptedUpstream":
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.accepted += 1
                self._open.add(sock)
                thread = threading.Thread(target=self._play, args=(sock, self.script))
                self._threads.append(thread)
                thread.start()

    def _play(self, sock: socket.socket, script: Script) -> None:
        with sock, contextlib.suppress(OSError):
            if self._tls is None:
                script(Talk(sock))
            else:
                with self._tls.wrap_socket(sock, server_side=True, suppress_ragged_eofs=True) as wrapped:
                    self._open.add(wrapped)
                    script(Talk(wrapped))
                self._open.discard(wrapped)
        self._open.discard(sock)

    def connections(self) -> int:
        """Count the connections to it that others hold, closed on this side or not."""
        count = 0
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            words = line.split()
            if int(words[2][9:], 16) == self.port and words[9] != "0" and words[3] in ("01", "04", "08"):
                count += 1
        return count
