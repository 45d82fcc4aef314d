"""Says when a request's body is sent to the upstream.

``request_buffering`` true (the default): when all of it has come, so that a slow client does not occupy the upstream;
it waits in memory, or in a file. False: as it comes, which is what happens without this plugin.
"""

from typing import TYPE_CHECKING

import msgspec

from worker.errors import BodyNeeded
from worker.plugins.base import Plugin, Scope

if TYPE_CHECKING:
    from worker.exchange import Exchange


class ProxyControlConfig(msgspec.Struct):
    """Whether bodies wait."""

    request_buffering: bool = True


class ProxyControl(Plugin[ProxyControlConfig]):
    """Waits for bodies."""

    name = "proxy-control"
    priority = 21990
    Config = ProxyControlConfig

    def __init__(self, config: ProxyControlConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._waits = config.request_buffering

    def before_proxy(self, exchange: "Exchange") -> None:
        """Wait until the body has come; none of it is wanted here."""
        body = exchange.body
        if self._waits and body is not None and not body.complete:
            raise BodyNeeded(0)
