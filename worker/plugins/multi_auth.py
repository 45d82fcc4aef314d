"""multi-auth: any of several plugins that authenticate; the first that succeeds decides whom the request is from.

Fields: ``auth_plugins``, two or more objects with one plugin each and its configuration, tried in order; an
``anonymous_consumer`` in one of them is a success. Consumers have what those plugins want.

Answers 401 ``Authorization Failed``, with the ``WWW-Authenticate`` of each plugin that was tried (APISIX leaves that of
the last). ``_meta`` inside the configurations means nothing.
"""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from config_sync.errors import InvalidResource
from worker.plugins.answer import Answer, message
from worker.plugins.authentication import AUTHENTICATORS, Authenticator, attach, forget_forged
from worker.plugins.base import Plugin, Scope
from worker.plugins.registry import Registered

if TYPE_CHECKING:
    from worker.exchange import Exchange


class MultiAuthConfig(msgspec.Struct):
    """What is tried."""

    auth_plugins: Annotated[tuple[dict[str, Any], ...], Meta(min_length=2)]


class MultiAuth(Plugin[MultiAuthConfig]):
    """Asks one after the other."""

    name = "multi-auth"
    priority = 2600
    Config = MultiAuthConfig

    def __init__(self, config: MultiAuthConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._plugins = [_made(entry, index, scope) for index, entry in enumerate(config.auth_plugins)]
        if any(plugin.prepare is not None for plugin in self._plugins):
            self.rewrite = self._rewrite_prepared  # type: ignore[method-assign]  # async only where one may have to wait

    @classmethod
    def check(cls, config: MultiAuthConfig) -> None:
        """Check what is tried."""
        for index, entry in enumerate(config.auth_plugins):
            _registered(entry, index)

    def rewrite(self, exchange: "Exchange") -> Answer | Awaitable[Answer | None] | None:
        """Attach whom the first plugin has found that finds somebody, or refuse."""
        challenges: list[tuple[bytes, bytes]] = []
        for plugin in self._plugins:
            found = plugin.verdict(exchange)
            if not isinstance(found, Answer):
                attach(exchange, found)
                return None
            challenges += [field for field in found.fields if field not in challenges]
        return message(401, "Authorization Failed", challenges)

    async def _rewrite_prepared(self, exchange: "Exchange") -> Answer | None:
        for plugin in self._plugins:
            if plugin.prepare is not None:
                await plugin.prepare(exchange)
        answer = MultiAuth.rewrite(self, exchange)
        assert answer is None or isinstance(answer, Answer)  # noqa: S101 - that one does not wait
        return answer

    def passed_over(self, exchange: "Exchange") -> None:
        """Keep forged fields out of a request that the filter has exempted."""
        forget_forged(exchange)

    def close(self) -> None:
        """Close what is tried."""
        for plugin in self._plugins:
            plugin.close()


def _registered(entry: dict[str, Any], index: int) -> tuple[Registered, msgspec.Struct]:
    """Return the plugin of an entry, and its configuration.

    Raises:
        InvalidResource: there is no such plugin, or it cannot be configured so.
    """
    path = f"$.auth_plugins[{index}]"
    if len(entry) != 1:
        raise InvalidResource(path, "must hold one plugin")
    ((name, config),) = entry.items()
    plugin = AUTHENTICATORS.get(name)
    if plugin is None:
        raise InvalidResource(f"{path}[{name!r}]", f"must be one of {', '.join(sorted(AUTHENTICATORS))}")
    if not isinstance(config, dict) and config != []:
        raise InvalidResource(f"{path}[{name!r}]", "must be an object")
    registered = Registered(plugin, "multi-auth")
    return registered, registered.config(config or {}, f"{path}[{name!r}]", [])


def _made(entry: dict[str, Any], index: int, scope: Scope) -> Authenticator[Any]:
    registered, config = _registered(entry, index)
    own = Scope(registered.name, scope.key, scope.fingerprint, registered.metadata({}, "$", []), scope.services)
    plugin = registered.plugin(config, own)
    assert isinstance(plugin, Authenticator)  # noqa: S101 - no others are registered there
    return plugin
