"""The request's body, for plugins that have to see the whole of it."""

from typing import TYPE_CHECKING

from worker.errors import BodyNeeded

if TYPE_CHECKING:
    from worker.exchange import Exchange


def whole_body(exchange: "Exchange", limit: int) -> bytes | None:
    """Return the request's body; None when it is larger than ``limit`` bytes.

    Raises:
        BodyNeeded: it has not been received; the hook is called again when it has.
    """
    request, body, content = exchange.request, exchange.body, exchange.buffered_body
    if request is None or (body is None and content is None):
        return b""
    if content is None or (not content and body is not None and body.received):
        # Not received yet, or somebody wanted to see less than it has.
        if max(request.content_length, body.received if body is not None else 0) > limit:
            return None
        raise BodyNeeded(limit)
    return content if len(content) <= limit else None
