"""key-auth: consumers prove who they are with a key.

Fields: ``header`` (``apikey``) and ``query`` (``apikey``), where the key is looked for, in this order;
``hide_credentials``, ``realm`` (``key``), ``anonymous_consumer``. In a consumer or credential: ``key``, not empty.

Answers 401 ``Missing API key in request`` or ``Invalid API key in request``, with ``WWW-Authenticate: apikey
realm="key"``. An empty ``key`` in a consumer is refused, a field that is there twice is one value with a comma.
"""

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from worker.consumers import AttachedConsumer
from worker.edited_request import edit
from worker.plugins.authentication import AuthenticationConfig, Authenticator, FieldName, Realm, hide_argument
from worker.plugins.base import Scope
from worker.variables import accessor
from worker.variables.values import text_of

if TYPE_CHECKING:
    from worker.exchange import Exchange


class KeyAuthConfig(AuthenticationConfig, kw_only=True):
    """Where the key is."""

    header: FieldName = "apikey"
    query: str = "apikey"
    realm: Realm = "key"


class KeyAuthConsumer(msgspec.Struct):
    """What a consumer shows."""

    key: Annotated[str, Meta(min_length=1)]


class KeyAuth(Authenticator[KeyAuthConfig]):
    """Finds the consumer of a key.

    The key is what a dictionary is asked for, whose hashes are keyed anew in each process: the time that takes tells
    nothing of other keys.
    """

    name = "key-auth"
    priority = 2500
    Config = KeyAuthConfig
    Consumer = KeyAuthConsumer
    credential = "key"
    scheme = "apikey"

    def __init__(self, config: KeyAuthConfig, scope: Scope) -> None:
        super().__init__(config, scope)
        self._header = config.header.encode()
        self._argument = accessor(f"arg_{config.query}")

    def authenticate(self, exchange: "Exchange") -> AttachedConsumer | str:
        """Look the key up."""
        value = exchange.request.header(self._header)  # type: ignore[union-attr]  # there is one
        key = text_of(value) if value is not None else self._argument(exchange)
        if key is None:
            return "Missing API key in request"
        found = self.consumers.find(self.name, key) if isinstance(key, str) else None
        return found or "Invalid API key in request"

    def hide(self, exchange: "Exchange") -> None:
        """Take the key away."""
        request = edit(exchange)
        if request.header(self._header) is not None:
            request.remove_field(self._header)
        else:
            hide_argument(exchange, self.config.query)
