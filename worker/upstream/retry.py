"""May a failed try be repeated, and when has a request been tried enough? (upstreams.md section 4)"""

from worker.errors import ProxyError, Retry

# RFC 9110 section 9.2.2; any other method may have had its effect once the peer has seen it.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))


def may_retry(error: ProxyError, method: bytes, reused: bool, replayable: bool) -> bool:
    """Tell whether the same request may be sent again after an error.

    Args:
        error: how the try ended; it says by its class when another is safe.
        method: the request's method.
        reused: the connection had carried a request before, and died before a byte of this answer.
        replayable: every byte of the body sent so far is still at hand.
    """
    if error.retry is Retry.IF_UNSENT:
        return replayable
    return error.retry is Retry.IF_REUSED and reused and replayable and method in IDEMPOTENT
