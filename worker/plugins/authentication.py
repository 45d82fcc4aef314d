"""What plugins that authenticate have in common: whom a request is from is found, noted and told to the upstream.

Such a plugin says in ``authenticate`` who it is, or why nobody; the rest is done here. Whoever was attached is in
``exchange.run.consumer``, in the variables ``consumer_name`` and ``consumer_group_id``, and in the fields
``X-Consumer-Username``, ``X-Credential-Identifier`` and ``X-Consumer-Custom-ID``. A client's own fields of these names
never get through, also when ``_meta.filter`` passes the plugin over, nor do those with underscores, which many servers
take for the same. Credentials are hidden where they were found, and only good ones.
"""

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

import msgspec
from msgspec import Meta

from worker.consumers import AttachedConsumer
from worker.edited_request import EditedRequest, edit, note_change, repeat
from worker.fields import field_line
from worker.plugins.answer import Answer, message
from worker.plugins.base import Plugin, Scope
from worker.variables import accessor, assign
from worker.variables.request import decoded
from worker.variables.values import text_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from worker.exchange import Exchange

NO_CONSUMER = "Invalid user authorization"
_IDENTITY = re.compile(
    rb"(?im)^X[-_](?:Consumer[-_]Username|Credential[-_]Identifier|Consumer[-_]Custom[-_]ID):.*\r?\n"
)

Realm = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[\x20-\x7e]+\Z")]
FieldName = Annotated[str, Meta(min_length=1, pattern=r"^[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")]

_all_cookies = accessor("http_cookie")


class AuthenticationConfig(msgspec.Struct, kw_only=True):
    """What all of them take; ``realm`` has a default of its own in each."""

    hide_credentials: bool = False
    anonymous_consumer: str | None = None
    realm: Realm


C = TypeVar("C", bound=AuthenticationConfig)
AUTHENTICATORS: "dict[str, type[Authenticator[Any]]]" = {}
"""By name, for ``multi-auth``."""


class Authenticator(Plugin[C]):
    """A plugin that finds out whom a request is from; ``scheme`` begins its challenge."""

    scheme: ClassVar[str]
    prepare: "Callable[[Exchange], Awaitable[None]] | None" = None  # waited for before ``verdict``, where there is one

    def __init_subclass__(cls) -> None:
        """Note a class that is a plugin."""
        super().__init_subclass__()
        if "name" in vars(cls):
            AUTHENTICATORS[cls.name] = cls

    def __init__(self, config: C, scope: Scope) -> None:
        super().__init__(config, scope)
        self.consumers = scope.services.consumers
        realm = config.realm.replace("\\", "\\\\").replace('"', '\\"')
        self.challenge = ((b"WWW-Authenticate", f'{self.scheme} realm="{realm}"'.encode()),)

    def authenticate(self, exchange: "Exchange") -> AttachedConsumer | Answer | str:
        """Return whom a request is from, or the message why nobody, or an answer that ends it whatever happens.

        It changes nothing of the exchange: another plugin may have to try.

        Raises:
            BodyNeeded: it depends on the request's body; it is called again when that has been received.
        """
        raise NotImplementedError

    def hide(self, exchange: "Exchange") -> None:
        """Take the credential, which was good, out of the request."""

    def verdict(self, exchange: "Exchange") -> AttachedConsumer | Answer:
        """Return whom a request is from, be it nobody in particular, or the answer to it; attaches nobody."""
        found = self.authenticate(exchange)
        if isinstance(found, AttachedConsumer):
            if self.config.hide_credentials:
                self.hide(exchange)
            return found
        return self._nobody(found)

    def _nobody(self, found: Answer | str) -> AttachedConsumer | Answer:
        """Return who it is instead when the request is from nobody that is known, or the answer to it."""
        if isinstance(found, Answer):
            return found
        anonymous = self.config.anonymous_consumer
        if anonymous is not None:
            consumer = self.consumers.attached(anonymous)
            if consumer is not None:
                return consumer
            found = NO_CONSUMER
        return message(401, found, self.challenge)

    def rewrite(self, exchange: "Exchange") -> Answer | None:
        """Attach whom the request is from, or refuse it."""
        found = self.authenticate(exchange)
        if not isinstance(found, AttachedConsumer):
            found = self._nobody(found)
            if isinstance(found, Answer):
                return found
            attach(exchange, found)
            return None
        note(exchange, found)
        before, change = exchange.request, (self, found)
        if not repeat(exchange, change):
            if self.config.hide_credentials:
                self.hide(exchange)
            edited = tell(exchange, found)
            if before is not None:
                note_change(before, change, edited)
        return None

    def passed_over(self, exchange: "Exchange") -> None:
        """Keep forged fields out of a request that the filter has exempted."""
        forget_forged(exchange)


def attach(exchange: "Exchange", consumer: AttachedConsumer) -> None:
    """Note whom a request is from, and tell the upstream."""
    note(exchange, consumer)
    tell(exchange, consumer)


def note(exchange: "Exchange", consumer: AttachedConsumer) -> None:
    """Note whom a request is from."""
    run = exchange.run
    assert run is not None  # noqa: S101 - plugins run in one
    run.consumer = consumer
    assign(exchange, "consumer_name", consumer.username)
    if consumer.group_id is not None:
        assign(exchange, "consumer_group_id", consumer.group_id)
    elif exchange.memo is not None and exchange.memo.assigned is not None:
        exchange.memo.assigned.pop("consumer_group_id", None)  # of whom a global rule has attached before


def tell(exchange: "Exchange", consumer: AttachedConsumer) -> EditedRequest:
    """Tell the upstream whom a request is from."""
    request = edit(exchange)
    request.replace_lines(_IDENTITY, _lines(consumer.username, consumer.credential_id, consumer.custom_id))
    return request


def forget_forged(exchange: "Exchange") -> None:
    """Take the fields that tell who somebody is out of a request that nobody has been attached to."""
    request, run = exchange.request, exchange.run
    if request is None or (run is not None and run.consumer is not None):
        return
    if _IDENTITY.search(request.block) is not None:
        edit(exchange).replace_lines(_IDENTITY, b"")


@lru_cache(maxsize=4096)
def _lines(username: str, credential_id: str | None, custom_id: str | None) -> bytes:
    lines = field_line(b"X-Consumer-Username", username.encode())
    if credential_id is not None:
        lines += field_line(b"X-Credential-Identifier", credential_id.encode())
    if custom_id is not None:
        lines += field_line(b"X-Consumer-Custom-ID", custom_id.encode())
    return lines


def hide_argument(exchange: "Exchange", name: str) -> None:
    """Take an argument out of the query that goes upstream; the rest of it stays byte for byte."""
    request = edit(exchange)
    path, _, query = request.upstream_target.partition(b"?")
    kept = [part for part in query.split(b"&") if decoded(text_of(part.partition(b"=")[0])) != name]
    request.upstream_target = path + b"?" + b"&".join(kept) if kept else path


def hide_cookie(exchange: "Exchange", name: str) -> None:
    """Take a cookie out of the request."""
    cookies = _all_cookies(exchange)
    assert isinstance(cookies, str)  # noqa: S101 - only called when there is one
    parts = [part.strip(" \t") for part in cookies.split(";")]
    kept = [part for part in parts if part and part.partition("=")[0].strip(" \t") != name]
    request = edit(exchange)
    request.cookies = None
    if kept:
        request.set_field(b"Cookie", "; ".join(kept).encode("utf-8", "surrogateescape"))
    else:
        request.remove_field(b"Cookie")
