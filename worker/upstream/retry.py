"""May a failed try be repeated? (upstreams.md section 4)"""

from worker.errors import ProxyError, Retry

# Those that the section names, and no others: a configuration is to behave as it did.
NON_IDEMPOTENT = frozenset((b"POST", b"LOCK", b"PATCH"))


def may_retry(error: ProxyError, method: bytes, replayable: bool) -> bool:
    """Tell whether the same request may be sent again after an error, while nothing of an answer has been passed on.

    Args:
        error: how the try ended; it says by its class when another is safe.
        method: the request's method.
        replayable: every byte of the body received so far is still at hand.
    """
    if error.retry is Retry.IF_UNSENT:
        return replayable
    return error.retry is Retry.IF_IDEMPOTENT and replayable and method not in NON_IDEMPOTENT
