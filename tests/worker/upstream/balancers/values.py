"""Peers and exchanges without sockets."""

from types import SimpleNamespace
from typing import cast

from worker.exchange import Exchange
from worker.http.http1_server import Http1Server
from worker.messages import Framing, Request
from worker.upstream.load import Load
from worker.upstream.peer import Peer
from worker.upstream.pool import Pool, PoolKey


def peer(host: str, weight: int = 1, priority: int = 0, port: int = 80, max_conns: int = 0) -> Peer:
    """A peer that is tracked."""
    made = Peer(host, port, weight, priority, Pool(PoolKey("http", host, port, 1, 60.0, 1000)), max_conns=max_conns)
    made.load = Load()
    return made


def exchange(target: str = "/", fields: str = "", remote_address: str = "10.9.8.7") -> Exchange:
    """An exchange with a request for ``target``; ``fields`` are whole lines."""
    downstream = SimpleNamespace(remote_address=remote_address, remote_port=4711)
    made = Exchange(cast("Http1Server", downstream), 0.0)
    path = target.partition("?")[0].encode()
    block = f"\r\n{fields}\r\n".encode()
    made.request = Request(
        b"GET", target.encode(), path, b"a.com:8080", b"a.com", block, True, Framing.NONE, 0, b"\r\n"
    )
    return made


ANY = exchange()
