"""When another try is safe."""

import pytest

from worker.errors import ConnectFailed, ConnectTimeout, InvalidResponse, PeerClosed, ProxyError, ReadTimeout
from worker.upstream.retry import may_retry


@pytest.mark.parametrize(
    ("error", "method", "reused", "replayable", "expected"),
    [
        (ConnectFailed(), b"POST", False, True, True),
        (ConnectTimeout(), b"GET", False, True, True),
        (ConnectFailed(), b"POST", False, False, False),
        (PeerClosed(), b"GET", True, True, True),
        (PeerClosed(), b"GET", False, True, False),
        (PeerClosed(), b"POST", True, True, False),
        (PeerClosed(), b"PUT", True, False, False),
        (ReadTimeout(), b"GET", True, True, False),
        (InvalidResponse(), b"GET", True, True, False),
    ],
)
def test_may_retry(error: ProxyError, method: bytes, reused: bool, replayable: bool, expected: bool) -> None:
    assert may_retry(error, method, reused, replayable) is expected
