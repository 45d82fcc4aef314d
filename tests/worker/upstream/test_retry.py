"""When another try is safe."""

import pytest

from worker.errors import (
    ConnectFailed,
    ConnectTimeout,
    InvalidResponse,
    NoPeers,
    PeerClosed,
    ProxyError,
    ReadTimeout,
    RequestTimeout,
    RetryTimeout,
    SendTimeout,
)
from worker.upstream.retry import may_retry

METHODS = (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PURGE", b"POST", b"LOCK", b"PATCH")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [ConnectFailed(), ConnectTimeout()])
def test_what_never_left_may_be_sent_again(error: ProxyError, method: bytes) -> None:
    assert may_retry(error, method, replayable=True)
    assert not may_retry(error, method, replayable=False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("error", [PeerClosed(), SendTimeout(), ReadTimeout(), InvalidResponse()])
def test_what_a_peer_may_have_acted_on_is_sent_again_if_idempotent(error: ProxyError, method: bytes) -> None:
    assert may_retry(error, method, replayable=True) is (method not in (b"POST", b"LOCK", b"PATCH"))
    assert not may_retry(error, method, replayable=False)


@pytest.mark.parametrize("error", [RetryTimeout(), RequestTimeout(), NoPeers(), ProxyError()])
def test_what_no_peer_can_mend_is_not_tried_again(error: ProxyError) -> None:
    assert not may_retry(error, b"GET", replayable=True)
