"""Answers with what plugins offer at an address of their own, such as ``/apisix/batch-requests``.

``uri`` says which; without it the request's path does. Without such an endpoint, or for another method, the answer is
404.
"""

from typing import TYPE_CHECKING, Annotated

import msgspec

from worker.plugins.answer import Answer
from worker.plugins.base import Endpoint, Plugin, Scope

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from worker.exchange import Exchange
    from worker.plugins.host import PluginHost


class PublicApiConfig(msgspec.Struct):
    """Which endpoint."""

    uri: Annotated[str, msgspec.Meta(min_length=1)] | None = None


class PublicApi(Plugin[PublicApiConfig]):
    """Leads to endpoints of plugins."""

    name = "public-api"
    priority = 501
    Config = PublicApiConfig

    def __init__(self, config: PublicApiConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._uri = config.uri.encode() if config.uri is not None else None
        self._endpoints: dict[tuple[bytes, bytes], tuple[str, Endpoint]] | None = None

    def access(self, exchange: "Exchange") -> "Answer | Awaitable[Answer | None] | None":
        """Answer."""
        request, host = exchange.request, exchange.downstream.context.plugins
        if request is None:
            return None
        if self._endpoints is None:
            self._endpoints = self._found(host)
        found = self._endpoints.get((request.method, self._uri or request.path))
        if found is None:
            return Answer(404)
        name, endpoint = found
        return endpoint(exchange, host.metadata(name))

    def _found(self, host: "PluginHost") -> dict[tuple[bytes, bytes], tuple[str, Endpoint]]:
        """Return the endpoints of all plugins."""
        found = {}
        for name in host.registry.names():
            registered = host.registry.get(name)
            if registered is not None:
                offered = registered.plugin.endpoints(self.scope.services.attribute(name))
                found.update({key: (name, endpoint) for key, endpoint in offered.items()})
        return found
