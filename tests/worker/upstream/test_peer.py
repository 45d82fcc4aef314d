"""What a peer is called when its own name is sent."""

import pytest

from worker.upstream.peer import Peer, Upstream
from worker.upstream.pool import Pool, PoolKey


@pytest.mark.parametrize(
    ("scheme", "host", "port", "authority"),
    [
        ("http", "a.test", 80, b"a.test"),
        ("http", "a.test", 443, b"a.test:443"),
        ("https", "a.test", 443, b"a.test"),
        ("https", "a.test", 80, b"a.test:80"),
        ("http", "[::1]", 80, b"[::1]"),
        ("https", "::1", 8443, b"[::1]:8443"),
    ],
)
def test_authority(scheme: str, host: str, port: int, authority: bytes) -> None:
    peer = Peer(host, port, 1, 0, Pool(PoolKey(scheme, host, port, 1, 60.0, 1)), scheme)
    assert peer.authority == authority
    by_node = Upstream("1", [peer], None, None, 0.0, None, "node", None)
    rewriting = Upstream("1", [peer], None, None, 0.0, None, "rewrite", "b.test:1")
    assert (by_node.pass_host, by_node.host_for(peer)) == (False, authority)
    assert (rewriting.pass_host, rewriting.host_for(peer)) == (False, b"b.test:1")
