"""What a plugin is: one class with a name, a priority, a ``Config`` and the hooks it needs.

The hooks of a request, in the order of a request (plugins.md section 1):

    rewrite        after matching; may answer
    access         after that; may answer
    before_proxy   a node has been chosen, and again before each other try; may answer
    header_filter  the head of the answer is known, from the upstream or from the gateway itself
    body_filter    for each piece of the answer's body
    log            the exchange is over

The first three may be ``async``; one that is costs a Task for each request, one that is not costs a call, and may
return an awaitable when it does have to wait. A hook that
is not overridden costs nothing. A hook that looks at a variable of the request's body before it has been received is
called again when it has: it should look before it changes anything.

A plugin is made when configuration changes, once for each place where it is configured, and serves all requests of all
routes to which that place applies. What must outlive a change of something else does so: a plugin whose configuration,
place and metadata stay the same stays the same object.
"""

from asyncio import CancelledError
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import msgspec

from worker.plugins.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from config_sync.settings import Settings
    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead
    from worker.plugins.services import PluginServices

FAILURES = (Exception, CancelledError)
"""What of a plugin's doing is its failure; what a hook waits for may have been cancelled by others."""

Endpoint = Callable[["Exchange", Any], "Answer | Awaitable[Answer]"]
"""Answers a request, given the plugin's metadata; it may raise BodyNeeded."""

C = TypeVar("C", bound=msgspec.Struct)


class NoConfig(msgspec.Struct):
    """The configuration of a plugin that has none."""


class Scope:
    """Where a plugin is configured, and what it may use.

    ``key`` is the record the configuration was written in, below the prefix; ``fingerprint`` the CRC-32 of the
    configuration: both belong in the name of a counter (plugins.md section 5). ``metadata`` is an instance of the
    plugin's ``Metadata``, of defaults when nothing is written there (``has_metadata``). ``of_others`` is what is
    written as metadata of the plugins in ``reads_metadata_of``, by name.
    """

    __slots__ = ("fingerprint", "has_metadata", "key", "metadata", "of_others", "plugin", "services")

    def __init__(
        self,
        plugin: str,
        key: str,
        fingerprint: str,
        metadata: Any,
        services: "PluginServices",
        has_metadata: bool = False,
        of_others: "Mapping[str, Mapping[str, Any]] | None" = None,
    ) -> None:
        self.plugin = plugin
        self.key = key
        self.fingerprint = fingerprint
        self.metadata = metadata
        self.services = services
        self.has_metadata = has_metadata
        self.of_others: Mapping[str, Mapping[str, Any]] = of_others or {}


class Plugin(Generic[C]):
    """Every hook, doing nothing; a plugin overrides those it needs.

    Class attributes: ``name`` as configurations call it; ``priority``, higher runs first (plugins.md section 2);
    ``Config``, what may be configured; ``Metadata``, what may be configured once for all uses; ``Consumer``, the
    configuration in a consumer or credential, for plugins that authenticate, and ``credential``, the field of it by
    which consumers are found.
    """

    name: ClassVar[str]
    priority: ClassVar[int] = 0
    Config: ClassVar[type[msgspec.Struct]] = NoConfig
    Metadata: ClassVar[type[msgspec.Struct]] = NoConfig
    Consumer: ClassVar[type[msgspec.Struct] | None] = None
    credential: ClassVar[str] = ""
    reads_metadata_of: ClassVar[tuple[str, ...]] = ()  # other plugins: it is made anew when theirs change
    comes_last: ClassVar[bool] = False  # it sees answers as all others have left them, whatever its priority
    unused: frozenset[str] = frozenset()  # hooks that are not needed, as an object is configured
    prefers_route: ClassVar[bool] = False  # its use in a global rule gives way to one on the route
    fails_closed: ClassVar[bool] = False  # it keeps somebody out: where it fails or cannot run, nobody gets through
    added_names: tuple[bytes, ...] = ()  # see ``added_fields``
    only_observes: ClassVar[bool] = False  # requests do not need it: where it cannot be made, they go on without it

    def __init__(self, config: C, scope: Scope) -> None:
        """Prepare; everything that does not depend on a request is done here.

        Raises:
            ConfigError: the configuration cannot be used; said with the JSON path inside it.
        """
        self.config = config
        self.scope = scope

    @classmethod
    def check(cls, config: Any) -> None:
        """Say what is wrong with a configuration that its type cannot say; called when it is written.

        Raises:
            InvalidResource: with the JSON path inside the configuration.
        """

    @classmethod
    def check_settings(cls, config: Any, settings: "Settings") -> None:
        """Say likewise what is wrong with a configuration in a gateway with these settings.

        Raises:
            InvalidResource: with the JSON path inside the configuration.
        """

    @classmethod
    def check_consumer(cls, config: Any) -> None:
        """Say likewise what is wrong with the configuration in a consumer or credential.

        Raises:
            InvalidResource: with the JSON path inside the configuration.
        """

    @classmethod
    def endpoints(cls, attribute: "Mapping[str, Any]") -> "Mapping[tuple[bytes, bytes], Endpoint]":
        """Return what answers to a method and path, for the routes that ``public-api`` opens.

        ``attribute`` is what the settings say of the plugin.
        """
        return {}

    def rewrite(self, exchange: "Exchange") -> "Answer | Awaitable[Answer | None] | None":
        """Look at and change the request; an answer ends it."""

    def access(self, exchange: "Exchange") -> "Answer | Awaitable[Answer | None] | None":
        """Decide whether the request may go on, after all plugins have rewritten; an answer ends it."""

    def before_proxy(self, exchange: "Exchange") -> "Answer | Awaitable[Answer | None] | None":
        """Look at ``exchange.peer``, before each try; an answer ends the request."""

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Look at and change status and fields of the answer.

        Where an answer fails before any of it has been sent, the hook is called again with the gateway's own: what it
        keeps for ``body_filter`` begins here.
        """

    def added_fields(self, exchange: "Exchange") -> bytes:
        """Return the whole lines that ``header_filter`` would add, where adding some is all it does: a shorter way.

        It is taken for answers of an upstream that have none of the fields ``added_names``, which are in lower case.
        It is not timed.
        """
        return b""

    def body_filter(self, exchange: "Exchange", data: bytes, is_last: bool) -> "bytes | Awaitable[bytes]":
        """Return what is to be sent for a piece of the body; it may be kept back, as long as it comes in the end.

        What takes long is done in a thread, and awaited: pieces that come meanwhile wait for their turn.
        """
        return data

    def log(self, exchange: "Exchange") -> None:
        """Note what happened; the answer has been sent, or the client is gone."""

    def close(self) -> None:
        """Give back what is held; no request will come any more, but some may still be under way."""
