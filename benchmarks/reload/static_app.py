"""What the upstream answers, as a WSGI application: gunicorn is no proxy, so it answers itself."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks.reload.upstream import PIECES, content

StartResponse = Callable[[str, list[tuple[str, str]]], object]


def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Answer /token, /upload and /download as ``benchmarks.reload.upstream`` does."""
    _, name, *words = environ["PATH_INFO"].split("/")
    if name == "download":
        seed, size, duration = map(int, words)
        start_response("200 OK", [] if seed % 2 else [("Content-Length", str(size))])
        return _slowly(seed, size, duration / 1000)
    body = words[0].encode() if name == "token" else _digest(environ["wsgi.input"])
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def _digest(stream: Any) -> bytes:
    digest, taken = hashlib.sha256(), 0
    while piece := stream.read(65_536):
        digest.update(piece)
        taken += len(piece)
    return f"{taken} {digest.hexdigest()}".encode()


def _slowly(seed: int, size: int, duration: float) -> Iterator[bytes]:
    body = content(seed, size)
    step = size // PIECES + 1
    for at in range(0, size, step):
        yield body[at : at + step]
        time.sleep(duration / PIECES)
