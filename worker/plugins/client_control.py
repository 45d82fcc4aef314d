"""Limits the size of requests' bodies.

``max_body_size`` in bytes; 0: no limit. A request whose Content-Length says more gets 413 at once, and one in chunks
when more has come. ``client_max_body_size`` of the settings holds, too.
"""

from typing import TYPE_CHECKING, Annotated

import msgspec

from worker.plugins.answer import Answer
from worker.plugins.base import Plugin, Scope

if TYPE_CHECKING:
    from worker.exchange import Exchange


class ClientControlConfig(msgspec.Struct):
    """How large a body may be."""

    max_body_size: Annotated[int, msgspec.Meta(ge=0)] = 0


class ClientControl(Plugin[ClientControlConfig]):
    """Looks at the length, and has chunks counted."""

    name = "client-control"
    priority = 22000
    Config = ClientControlConfig

    def __init__(self, config: ClientControlConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._most = config.max_body_size
        self._refusal = Answer(413)

    def rewrite(self, exchange: "Exchange") -> Answer | None:
        """Refuse what is too large, or will be."""
        if not self._most:
            return None
        request, body = exchange.request, exchange.body
        assert request is not None  # noqa: S101 - only requests that were read come to plugins
        if max(request.content_length, body.received if body is not None else 0) > self._most:
            return self._refusal
        if body is not None:
            body.limit(self._most)
        return None
